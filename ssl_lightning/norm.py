"""Batch norm over groups of a batch."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are taken in ``splits`` groups of the batch, as that many devices would.

    Sample i belongs to group i mod ``splits``. The running statistics are the mean over groups, so parameters and
    buffers are those of BatchNorm2d, and so is evaluation. lightly's SplitBatchNorm is not used: its buffers do not
    load into a plain ResNet, and it fails on channels_last.

    Raises:
        ValueError: in training, a batch that ``splits`` does not divide.
    """

    splits: int = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.splits == 1:
            return super().forward(x)
        n, c, h, w = x.shape
        if n % self.splits:
            raise ValueError(f"a batch of {n} images does not split into bn_splits={self.splits} equal groups")
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, var = self.running_mean.repeat(self.splits), self.running_var.repeat(self.splits)  # (splits C,)
        out = F.batch_norm(
            x.reshape(n // self.splits, self.splits * c, h, w),
            mean,
            var,
            self.weight.repeat(self.splits),
            self.bias.repeat(self.splits),
            True,
            cast(float, self.momentum),
            self.eps,
        )
        with torch.no_grad():
            self.running_mean.copy_(mean.view(self.splits, c).mean(0))
            self.running_var.copy_(var.view(self.splits, c).mean(0))
            self.num_batches_tracked.add_(1)
        return out.reshape(n, c, h, w)


def split_batch_norm(module: nn.Module, splits: int) -> None:
    """Turn every BatchNorm2d inside ``module`` into SplitBatchNorm2d, in place; the state dict stays as it is.

    Raises:
        ValueError: ``splits`` below 1.
    """
    if splits < 1:
        raise ValueError(f"bn_splits must be at least 1, got {splits}")
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and splits > 1:
            layer.__class__ = SplitBatchNorm2d
            cast(SplitBatchNorm2d, layer).splits = splits
