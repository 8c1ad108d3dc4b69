"""Colorful Image Colorization.

Richard Zhang, Phillip Isola, Alexei A. Efros, 2016. https://arxiv.org/abs/1603.08511
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from callbacks.pictures import Column
from datamodules.augment import center_crop
from datamodules.batch import ImageBatch
from datamodules.loader import EvalBatches, Loader
from datamodules.sets import Part
from datamodules.views import CropFlipViews
from ssl_lightning.colour_bins import ColourBins
from ssl_lightning.distributed import world_size
from ssl_lightning.lab import lab_to_rgb, lightness, rgb_to_lab
from ssl_lightning.last_map import last_map
from ssl_lightning.pretext import PretextModule
from ssl_lightning.schedules import LRRule, Schedule

COUNTED = 10_000  # most training images that the prior is taken from
AB_SCALE = 110.0  # of a and b in the regression
GREY = 5.0  # an image whose a and b nowhere exceed it has no colour: the authors' code


class Colorization(PretextModule):
    """From the lightness L of an image the network tells the colours a and b of its places.

    Classification (equation 2): a and b fall into the 261 squares of a grid of 10 in which the colours of sRGB lie (the
    paper counts 313); the target of a place is spread over its five nearest bins, and rare colours weigh more. Their
    prior is counted when the first fit starts: the bins of the places, as the targets see them, of the training images
    without augmentation, of at most 10,000 at even distances; every process counts its share, and the sum of the whole
    numbers, with the weights, is in the checkpoint. Images without any colour are left out there and in the loss.

    Regression (equation 1): half the squared distance of (a, b) / 110, meaned over places. It takes the mean of what is
    possible: greyer pictures, a simpler task.

    The backbone takes colour images and shows its network their lightness alone, in every evaluation too. The decoder's
    transposed convolutions double its last feature map until it has the wanted size; what a library's net does after
    that map (a transformer's norm excepted) is frozen. Logs the mean distance of told and true (a, b), in
    classification of the annealed mean: ``train/ab_error`` and, of the held-out images, ``val/pretext_ab_error`` and
    ``test/pretext_ab_error``.

    Args:
        loss: ``classification`` or ``regression``.
        stride: Pixels of an image for each place of the output, about; None: 4 as the paper, 2 for images of at most
            64 px.
        uniform_weight: Share lambda of a uniform prior in the rebalancing, in (0, 1]; 1: every colour weighs the same.
        temperature: T of the annealed mean by which pictures are decoded; 1: the mean, towards 0: the mode.
        decoder_dim: Channels of the decoder.
        optimizer: See SSLModule.
        lr: For any batch; the authors' has 40 images.
        lr_rule: See SSLModule.
        weight_decay: Of all parameters.
        optimizer_args: None: betas of 0.9 and 0.99 with Adam, the authors' solver.
        schedule: See SSLModule.
        milestones: After 225 of 500 thousand steps, the authors' solver.
        in_channels: 3: the images must have colour.
        backbone_args: See ImageModule; ``lightness`` is set here.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: a number out of its range, grey images, a backbone without a feature map, or, when the run starts,
            training images without colour.
    """

    score_name = "ab_error"

    def __init__(
        self,
        loss: Literal["classification", "regression"] = "classification",
        stride: int | None = None,
        uniform_weight: float = 0.5,
        temperature: float = 0.38,
        decoder_dim: int = 256,
        optimizer: str = "Adam",
        lr: float = 3e-5,
        lr_rule: LRRule = "none",
        weight_decay: float = 1e-3,
        optimizer_args: dict[str, Any] | None = None,
        schedule: Schedule = "step",
        milestones: tuple[float, ...] = (0.45,),
        in_channels: int = 3,
        backbone_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if in_channels != 3:
            raise ValueError(
                f"Colorization learns from colour images, 3 channels, and in_channels is {in_channels}: choose a data "
                "set with colours, or another method"
            )
        super().__init__(
            optimizer=optimizer,
            lr=lr,
            lr_rule=lr_rule,
            weight_decay=weight_decay,
            optimizer_args={"betas": (0.9, 0.99)} if optimizer_args is None and optimizer == "Adam" else optimizer_args,
            schedule=schedule,
            milestones=milestones,
            in_channels=in_channels,
            backbone_args={**(backbone_args or {}), "lightness": True},
            **kwargs,
        )
        if loss not in ("classification", "regression"):
            raise ValueError(f"loss must be classification or regression, got {loss!r}")
        if not 0 < uniform_weight <= 1:
            raise ValueError(f"uniform_weight must lie in (0, 1], got {uniform_weight}")
        if temperature <= 0:
            raise ValueError(f"temperature must be greater than 0, got {temperature}")
        if stride is not None and stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        self.loss, self.temperature = loss, temperature
        self.bins = ColourBins(uniform_weight)
        self.layer = last_map(self.backbone)
        dim, side, _ = self.backbone.map_shape(self.layer)
        wanted = self.image_size / (stride or (4 if self.image_size > 64 else 2))
        doublings = max(0, round(math.log2(wanted / side)))
        self.size = side * 2**doublings
        layers: list[nn.Module] = []
        for _ in range(doublings):
            layers += [nn.ConvTranspose2d(dim, decoder_dim, 4, stride=2, padding=1), nn.ReLU()]
            layers += [nn.BatchNorm2d(decoder_dim)]
            dim = decoder_dim
        outputs = len(self.bins) if loss == "classification" else 2
        self.decoder = nn.Sequential(*layers, nn.Conv2d(dim, outputs, 1))
        self.task = f"distance in (a, b), {loss}" + (f" T={temperature:g}" if loss == "classification" else "")

    def default_views(self) -> CropFlipViews:
        """Squares of 176 of 256 px are the paper's: 0.47 of the area. A border would have the colour of nothing."""
        return CropFlipViews(min_scale=0.47)

    def colorize(self, x: Tensor) -> Tensor:
        """Colour images (B, 3, H, W) in [0, 1], of which only L is seen -> float32 output (B, Q or 2, h, w)."""
        return self.decoder(self.backbone.layer_map(x, self.layer)).float()

    def colours(self, x: Tensor) -> Tensor:
        """What is to be told: the mean a and b (B, 2, h, w) of the pixels of each place."""
        return F.adaptive_avg_pool2d(rgb_to_lab(x)[:, 1:], self.size)

    def told(self, output: Tensor) -> Tensor:
        """Output (B, Q or 2, h, w) -> a and b (B, 2, h, w)."""
        return self.bins.decode(output, self.temperature) if self.loss == "classification" else output * AB_SCALE

    def on_fit_start(self) -> None:
        if not self.bins.counts.any():
            self.bins.set_counts(self.count_colours())

    @torch.no_grad()
    def count_colours(self) -> Tensor:
        """How many places of the training images lie in each bin: (Q,) int64, equal on every process.

        Raises:
            ValueError: no image has colour.
        """
        loader: Any = self.trainer.train_dataloader
        n = min(len(loader.dataset), COUNTED)
        part = Part(loader.dataset, np.linspace(0, len(loader.dataset), n, endpoint=False).astype(np.int64))
        images = Loader(part, EvalBatches(n, loader.batch_size), loader.num_workers)
        counts = torch.zeros_like(self.bins.counts)
        for batch in images:
            ab = self.colours(center_crop(batch.image.to(self.device), self.image_size))
            nearest = self.bins.encode(ab)[0][..., 0]
            counts += nearest[has_colour(ab)].flatten().bincount(minlength=len(counts))
        images.close()
        if world_size() > 1:
            distributed.all_reduce(counts)
        if not counts.any():
            raise ValueError(
                f"the training images have no colour: in none of {n} does a or b exceed {GREY:g}. Choose a data set "
                "with colours, or another method"
            )
        return counts

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        x = batch.views[0]
        with torch.autocast(x.device.type, enabled=False):
            ab = self.colours(x.float())
        output = self.colorize(x)
        if self.loss == "classification":
            loss = self.rebalanced(output, ab)
        else:
            loss = (output - ab / AB_SCALE).square().sum(1).mean() / 2
        with torch.no_grad():
            error = self.error(output, ab).mean()
        return {"loss": loss, "ab_error": error}

    def error(self, output: Tensor, ab: Tensor) -> Tensor:
        """(B,) mean distance of told and true (a, b) over the places of each image."""
        return (self.told(output) - ab).norm(dim=1).mean((1, 2))

    def scores(self, batch: ImageBatch) -> Tensor:
        x = batch.views[0]
        return self.error(self.colorize(x), self.colours(x))

    def rebalanced(self, logits: Tensor, ab: Tensor) -> Tensor:
        """- sum_q v Z_q log Zhat_q, meaned over places (equations 2 and 3); images without colour count as 0."""
        nearest, z = self.bins.encode(ab)
        v = self.bins.weight[nearest[..., 0]] * has_colour(ab)[:, None, None]
        log_z = logits.log_softmax(1).gather(1, nearest.permute(0, 3, 1, 2))
        return -(v * (z.permute(0, 3, 1, 2) * log_z).sum(1)).mean()

    def pictures(self, batch: ImageBatch) -> list[Column]:
        """The grey picture, the told colours and the true ones."""
        x = batch.views[0]
        l_channel = lightness(x)
        ab = self.told(self.colorize(x))
        ab = F.interpolate(ab, x.shape[2:], mode="bilinear")
        grey = lab_to_rgb(F.pad(l_channel, (0, 0, 0, 0, 0, 2)))
        return [
            Column("grey", grey),
            Column("predicted", lab_to_rgb(torch.cat([l_channel, ab], dim=1))),
            Column("true", x),
        ]


def has_colour(ab: Tensor) -> Tensor:
    """(B, 2, h, w) -> (B,) bool, whether a or b exceeds GREY anywhere."""
    return (ab.abs() > GREY).flatten(1).any(1)
