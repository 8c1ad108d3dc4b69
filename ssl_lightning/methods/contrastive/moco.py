"""Momentum Contrast for Unsupervised Visual Representation Learning (version 1), and
Improved Baselines with Momentum Contrastive Learning (version 2).

He, Fan, Wu, Xie, Girshick, 2019. https://arxiv.org/abs/1911.05722
Chen, Fan, Girshick, He, 2020. https://arxiv.org/abs/2003.04297
"""

from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.momentum import MomentumUpdate
from datamodules.batch import ImageBatch
from datamodules.views import MoCoV1Views, MoCoV2Views, Views
from ssl_lightning.base import ImageModule, frozen_copy
from ssl_lightning.heads import mlp
from ssl_lightning.losses import info_nce
from ssl_lightning.norm import split_batch_norm
from ssl_lightning.queue import Queue


class MoCo(ImageModule):
    """A query finds its key, made by a slowly moving copy of the encoder, among a queue of earlier keys.

    The defaults are version 2; version 1 is ``head_layers=1, temperature=0.07, schedule="step"``. The authors' code
    changes the rate once an epoch, here it moves at every step: ``schedule_interval="epoch"`` does as theirs.

    Args:
        temperature: 0.2 in version 2, 0.07 in version 1.
        head_layers: 2: an MLP (version 2); 1: one linear layer, with the views of version 1.
        hidden_dim: Width of the MLP's hidden layer; None: the backbone's.
        projection_dim: Width of queries and keys.
        momentum: Share m that the key encoder keeps of itself at each optimizer step.
        queue_size: Number of keys K. The keys of one step must divide it.
        symmetric: Each view serves as query once; the loss is the sum of both directions.
        bn_splits: Batch norm takes its statistics in this many groups of the batch, and keys are shuffled between
            groups: on one device what ShuffleBN does on many (section 3.3). It counts the groups of each process.
            1: plain batch norm.
        optimizer: See SSLModule.
        lr: 0.03 for a batch of 256, section 4.
        weight_decay: Of all parameters, batch norm too.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: a number out of its range, or (when the run starts) a queue that the keys of one step do not divide.
    """

    def __init__(
        self,
        temperature: float = 0.2,
        head_layers: int = 2,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        momentum: float = 0.999,
        queue_size: int = 65536,
        symmetric: bool = False,
        bn_splits: int = 8,
        optimizer: str = "SGD",
        lr: float = 0.03,
        weight_decay: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer=optimizer, lr=lr, weight_decay=weight_decay, **kwargs)
        if temperature <= 0:
            raise ValueError(f"temperature must be greater than 0, got {temperature}")
        if head_layers not in (1, 2):
            raise ValueError(f"head_layers must be 1 (version 1) or 2 (version 2), got {head_layers}")
        self.temperature, self.momentum, self.head_layers = temperature, momentum, head_layers
        self.symmetric, self.bn_splits = symmetric, bn_splits
        dim = self.backbone.dim
        sizes = [dim, hidden_dim or dim, projection_dim] if head_layers == 2 else [dim, projection_dim]
        self.head = mlp(*sizes, norm=False)
        split_batch_norm(self.backbone, bn_splits)
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_head = frozen_copy(self.head)
        self.queue = Queue(queue_size, projection_dim)

    def default_views(self) -> Views:
        return MoCoV1Views() if self.head_layers == 1 else MoCoV2Views()

    def configure_callbacks(self) -> list[Callback]:
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.backbone, self.teacher_backbone),
            (self.head, self.teacher_head),
        ]
        return [MomentumUpdate(pairs, self.momentum)]

    def on_fit_start(self) -> None:
        if self.bn_splits > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in self.modules()):
            raise ValueError(
                f"bn_splits={self.bn_splits} keeps queries and keys apart, which sync_batchnorm undoes: "
                "drop --trainer.sync_batchnorm"
            )
        batch, size = self.batch_per_step(), len(self.queue.keys)
        keys = batch * (1 + self.symmetric)
        if size % keys:
            raise ValueError(
                f"queue_size {size} is not a multiple of the {keys} keys of one step "
                f"({batch} images on all processes, symmetric={self.symmetric}): "
                f"set queue_size to {max(1, round(size / keys)) * keys}"
            )

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        x0, x1 = batch.views
        shuffle = self.uniform(batch.index, 1)[:, 0].argsort().to(x0.device, non_blocking=True)
        negatives = self.queue.keys.clone()  # of earlier steps; enqueuing must not change what backward needs
        k1 = self.encode_key(x1, shuffle)
        loss = info_nce(self.encode_query(x0), k1, negatives, self.temperature)
        if self.symmetric:
            k0 = self.encode_key(x0, shuffle)
            loss = loss + info_nce(self.encode_query(x1), k0, negatives, self.temperature)
            self.queue.enqueue(torch.cat([k0, k1]))
        else:
            self.queue.enqueue(k1)
        return loss

    def encode_query(self, x: Tensor) -> Tensor:
        return F.normalize(self.head(self.backbone(x)).float(), dim=1)

    @torch.no_grad()
    def encode_key(self, x: Tensor, shuffle: Tensor) -> Tensor:
        k = self.teacher_head(self.teacher_backbone(x[shuffle]))
        return F.normalize(k.float(), dim=1)[shuffle.argsort()]
