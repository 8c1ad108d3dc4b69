"""Detection transfer: how well a backbone of another run learns to detect objects.

Faster R-CNN: Ren, He, Girshick, Sun, 2015. https://arxiv.org/abs/1506.01497, on a Feature Pyramid Network (Lin et al.,
2016, https://arxiv.org/abs/1612.03144). How it is tuned is that of MoCo, section 4.2 and appendix: He, Fan, Wu, Xie,
Girshick, Momentum Contrast for Unsupervised Visual Representation Learning, 2019. https://arxiv.org/abs/1911.05722
"""

import warnings
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection.image_list import ImageList

from callbacks.detection import DetectionScore
from datamodules.batch import DetectionBatch
from datamodules.detection import DetectionData
from ssl_lightning.backbones import build
from ssl_lightning.distributed import mean_count
from ssl_lightning.faster_rcnn import detector
from ssl_lightning.labelled import CheckpointModule
from ssl_lightning.last_map import without_gradient
from ssl_lightning.pyramid import FPN, SimplePyramid, stages
from ssl_lightning.schedules import Schedule


class DetectionTransfer(CheckpointModule):
    """Faster R-CNN of torchvision on the backbone of another run, all of whose weights are tuned.

    Its regions come from a Feature Pyramid Network over the last maps of each size of a convolutional network, or from
    the simple pyramid of ViTDet over the last map of a vision transformer. The images may be of another size than those
    that the backbone was trained on; of a transformer, the positions are then interpolated (timm's, not torchvision's).
    Anchors are of 8 strides: 32 pixels at stride 4, where the stem for small images has not made it smaller.

    Logs the four losses, ``val/map`` and ``val/map_50``, ``test/map``, ``test/map_50`` and ``test/map_75``.

    Args:
        num_classes: Number of classes; the command line takes it from the data.
        channels: Width of the maps of the pyramid.
        head_dim: Width of the two layers that read a proposal.
        freeze_norm: Whether the backbone's batch norm keeps its statistics, scale and shift, and the pyramid has none:
            for batches of fewer than 8 images a process. Otherwise it is tuned, and the pyramid has batch norm too, as
            MoCo's authors do; under several processes then with ``--trainer.sync_batchnorm true``.
        detector_args: Other numbers of torchvision's FasterRCNN than its own, such as
            ``{"box_batch_size_per_image": 128}``.
        optimizer: See SSLModule.
        lr: For a batch of 16.
        base_batch_size: 16.
        weight_decay: Of all parameters.
        schedule: See SSLModule.
        milestones: 60,000 and 80,000 of 90,000 steps.
        warmup_steps: Steps.
        kwargs: Checkpoint and optimization, see CheckpointModule and SSLModule.

    Raises:
        ValueError: a number is out of its range, ``detector_args`` has an unknown one, or the backbone's strides are no
            powers of two.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        head_dim: int = 1024,
        freeze_norm: bool = False,
        detector_args: dict[str, Any] | None = None,
        optimizer: str = "SGD",
        lr: float = 0.02,
        base_batch_size: int = 16,
        weight_decay: float = 1e-4,
        schedule: Schedule = "step",
        milestones: tuple[float, ...] = (2 / 3, 8 / 9),
        warmup_steps: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            lr=lr,
            base_batch_size=base_batch_size,
            weight_decay=weight_decay,
            schedule=schedule,
            milestones=milestones,
            warmup_steps=warmup_steps,
            **kwargs,
        )
        for name, value in {"num_classes": num_classes, "channels": channels, "head_dim": head_dim}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.freeze_norm = freeze_norm
        self.maps = stages(self.backbone)
        for name in without_gradient(self.backbone, self.maps[-1]):
            self.backbone.get_parameter(name).requires_grad_(False)
        self.pyramid: FPN | SimplePyramid
        if len(self.maps) > 1:
            self.pyramid = FPN(self.backbone, self.maps, channels, norm=not freeze_norm)
        else:
            self.pyramid = SimplePyramid(self.backbone, self.maps[0], channels)
        self.rpn, self.roi_heads, self.samplers = detector(self.pyramid, num_classes, head_dim, detector_args or {})
        for norm in self.frozen_norms():
            norm.requires_grad_(False).eval()

    @staticmethod
    def adapted(recipe: dict[str, Any], image_size: int | None) -> dict[str, Any]:
        if image_size in (None, recipe["image_size"]):
            return recipe
        stem = build(**recipe).small_stem  # for the images that the backbone has learned from
        return {**recipe, "image_size": image_size, "small_stem": stem}

    def setup(self, stage: str) -> None:
        """
        Raises:
            ValueError: the data have no boxes, or boxes would lose their places to the precision.
        """
        super().setup(stage)
        if self.trainer.precision in ("16-true", "bf16-true"):
            raise ValueError(
                f"boxes need float32, and precision is {self.trainer.precision}: take --trainer.precision bf16-mixed"
            )
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and not isinstance(data, DetectionData):
            raise ValueError(
                f"{type(self).__name__} learns from images with boxes, and {type(data).__name__} has none: take "
                "DetectionDigits or DetectionFolder"
            )

    @property
    def protocols(self) -> dict[str, str]:
        """What the scores mean, see ResultsFile."""
        norm = "frozen batch norm" if self.freeze_norm else "batch norm tuned"
        words = (
            f"detection-v1: Faster R-CNN,{type(self.pyramid).__name__},all weights,{norm},{self.image_size} px,COCO AP"
        )
        return dict.fromkeys(("map", "map_50", "map_75"), f"{words},{self.training_words}")

    def train(self, mode: bool = True) -> "DetectionTransfer":
        super().train(mode)
        for norm in self.frozen_norms():
            norm.eval()
        return self

    def frozen_norms(self) -> list[_BatchNorm]:
        """Looked up anew each time: the trainer puts others in their place to synchronize them."""
        return [norm for norm in self.backbone.modules() if self.freeze_norm and isinstance(norm, _BatchNorm)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.freeze_norm:
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # Lightning's: it is meant

    def networks(self) -> list[nn.Module]:
        """What `--compile true` compiles: behind it shapes differ from step to step."""
        return [self.pyramid]

    def configure_callbacks(self) -> list[Callback]:
        return [DetectionScore()]

    def regions(
        self, image: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
        """What is found in images (B, C, S, S); in training the losses of the proposals and of their classes."""
        maps = {name: x.float() for name, x in self.pyramid(self.backbone.layer_maps(image, self.maps)).items()}
        images = ImageList(image, [(self.image_size, self.image_size)] * len(image))
        proposals, of_proposals = self.rpn(images, maps, targets)
        found, of_classes = self.roi_heads(maps, proposals, images.image_sizes, targets)
        return found, of_proposals, of_classes

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, Tensor]:
        targets = []
        for box, label, ignored in zip(batch.box, batch.label, batch.ignored, strict=True):
            learned = (label >= 0) & ~ignored
            targets.append({"boxes": box[learned].float(), "labels": label[learned] + 1})
        for sampler in self.samplers:
            sampler.index, sampler.epoch = batch.index, self.current_epoch
        _, *parts = self.regions(batch.image, targets)
        losses: dict[str, Tensor] = {}
        for sampler, part in zip(self.samplers, parts, strict=True):
            share = sampler.taken / mean_count(sampler.taken)  # each is a mean over as many
            losses |= {name: loss.float() * share for name, loss in part.items()}
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def detect(self, image: Tensor) -> list[dict[str, Tensor]]:
        """See datamodules.detection.DetectsObjects."""
        found, *_ = self.regions(image)
        return [{**boxes, "labels": boxes["labels"] - 1} for boxes in found]

    def validation_step(self, batch: DetectionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:  # type: ignore[override]
        """Nothing: the callbacks detect."""

    test_step = validation_step  # type: ignore[assignment]
