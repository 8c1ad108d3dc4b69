"""The parts of torchvision's Faster R-CNN behind its pyramid, with samples drawn by (seed, epoch, image)."""

import difflib
import inspect
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from datamodules.draws import global_seed, uniform
from ssl_lightning.pyramid import ANCHOR, FPN, SimplePyramid

POOLED = 7  # side of a proposal's map
NUMBERS = ("rpn_", "box_", "bbox_")  # how the settings of FasterRCNN begin
MODULES = ("rpn_anchor_generator", "rpn_head", "box_roi_pool", "box_head", "box_predictor")  # those that are no numbers


class BoxSampler:
    """Takes so many boxes of each image at random, at most a share of them positive, in the place of torchvision's
    BalancedPositiveNegativeSampler, which draws from the global generator.

    Args:
        name: Of its draws: samplers of other names draw others.
        size: Boxes of an image; fewer where there are not so many.
        positive: Largest share of positive ones.

    Attributes:
        index: (B,) int64 places of the images in the data set, to be set before a step.
        epoch: To be set too.
        taken: () int64, how many boxes the last call took.
    """

    index: Tensor
    epoch: int
    taken: Tensor

    def __init__(self, name: str, size: int, positive: float) -> None:
        self.salt, self.size, self.positive = zlib.crc32(name.encode()), size, positive

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """
        Args:
            labels: Of each image those of its boxes (n,): above 0 positive, 0 negative, below not to be taken.

        Returns:
            Of each image (n,) bool, the positive ones taken, and the negative ones.
        """
        index = self.index.to(labels[0].device, non_blocking=True)
        draws = uniform(index, max(map(len, labels)), global_seed(), self.epoch, self.salt)
        positives, negatives = [], []
        for label, draw in zip(labels, draws, strict=True):
            positives.append(lowest(draw[: len(label)], label >= 1, int(self.size * self.positive)))
            negatives.append(lowest(draw[: len(label)], label == 0, self.size - int(positives[-1].sum())))
        self.taken = torch.cat(positives + negatives).sum()
        return positives, negatives


def lowest(draw: Tensor, mask: Tensor, n: int) -> Tensor:
    """(N,) bool: of those in a mask (N,) the n with the lowest draws (N,), all where there are fewer."""
    found = torch.nonzero(mask).flatten()
    taken = torch.zeros_like(mask)
    taken[found[draw[found].argsort(stable=True)[:n]]] = True
    return taken


class _Width(nn.Module):
    """What FasterRCNN asks of its backbone at construction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels


def in_float32(head: nn.Module, args: Any, outputs: tuple[list[Tensor] | Tensor, ...]) -> tuple[Any, ...]:
    """What a head says of boxes: torchvision brings the boxes to its precision, and autocast's would move them."""
    return tuple([part.float() for part in out] if isinstance(out, list) else out.float() for out in outputs)


def detector(
    pyramid: FPN | SimplePyramid, num_classes: int, head_dim: int, numbers: Mapping[str, Any]
) -> tuple[nn.Module, nn.Module, list[BoxSampler]]:
    """The network that proposes regions, what reads them, and the samplers of the two.

    Args:
        pyramid: Whose maps they take.
        num_classes: Without the background.
        head_dim: Width of the two layers that read a proposal.
        numbers: Other numbers of FasterRCNN than its own.

    Raises:
        ValueError: an unknown number.
    """
    known = [k for k in inspect.signature(FasterRCNN).parameters if k.startswith(NUMBERS) and k not in MODULES]
    for name in numbers:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"detector_args: unknown {name!r}.{hint} Known: {', '.join(known)}")
    sizes = tuple((ANCHOR * stride,) for stride in pyramid.strides)
    whole = FasterRCNN(
        _Width(pyramid.channels),
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign(pyramid.names, POOLED, 2),
        box_head=TwoMLPHead(pyramid.channels * POOLED**2, head_dim),
        box_predictor=FastRCNNPredictor(head_dim, num_classes + 1),  # 0 is the background
        **numbers,
    )
    for head in (whole.rpn.head, whole.roi_heads.box_predictor):
        head.register_forward_hook(in_float32)
    samplers = []
    for name, part in (("anchors", whole.rpn), ("proposals", whole.roi_heads)):
        old = part.fg_bg_sampler
        part.fg_bg_sampler = BoxSampler(name, old.batch_size_per_image, old.positive_fraction)
        samplers.append(part.fg_bg_sampler)
    return whole.rpn, whole.roi_heads, samplers
