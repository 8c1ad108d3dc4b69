"""Siamese features for correlation filters: what methods that learn to track share."""

from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback
from torch import Tensor

from callbacks.tracking import FramePairs, OnePassEvaluation
from datamodules.batch import SequenceBatch
from datamodules.video import Video
from datamodules.videos import Boxes, Crops, VideoData
from ssl_lightning.base import ImageModule
from ssl_lightning.correlation_filter import fit, gaussian, respond
from ssl_lightning.last_map import last_map
from ssl_lightning.schedules import LRRule, Schedule
from ssl_lightning.tracking import Tracker, displacements, track

MEAN = [123 / 255, 117 / 255, 104 / 255]  # of the authors' pixels, which they leave in 0 ... 255


class SiameseModule(ImageModule):
    """A network whose last map a correlation filter is fitted to; all frames go through the same one. The numbers are
    those of UDT and DCFNet. ``validate`` and ``test`` score frame pairs, ``test`` also follows the target of every
    annotated video.

    Args:
        padding: A window is 1 + padding times as wide and as high as the target.
        reg: Lambda of the filter, whose kernel is divided by C H W.
        sigma: Standard deviation of a label, as a share of the target's size.
        margin: Cells left out at each side of the map in training; 2 of ``dcfnet``, whose outer cells depend on the
            convolutions' padding.
        tracker: Other numbers of the tracker than its own, such as ``{"scale_step": 1.015}``, see
            ssl_lightning.tracking.Tracker.
        backbone: The network; its last map is used.
        image_size: Side of the windows in pixels.
        backbone_args: See ImageModule. None: pixels in 0 ... 255 less the mean, as the authors have them.
        lr: Learning rate.
        lr_rule: See SSLModule.
        weight_decay: Weight decay.
        schedule: See SSLModule.
        schedule_interval: See SSLModule.
        step_factor: Of the learning rate at the end.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: a number is out of its range, or the map has no cell inside of the margin.
    """

    evaluation_settings: ClassVar[tuple[str, ...]] = (*ImageModule.evaluation_settings, "tracker")
    frames: ClassVar[int] = 2
    boxes: ClassVar[Boxes] = "random"

    def __init__(
        self,
        *,
        padding: float = 2.0,
        reg: float = 1e-4,
        sigma: float = 0.1,
        margin: int = 2,
        tracker: dict[str, Any] | None = None,
        backbone: str = "dcfnet",
        image_size: int = 125,
        backbone_args: dict[str, Any] | None = None,
        lr: float = 1e-2,
        lr_rule: LRRule = "none",
        weight_decay: float = 5e-4,
        schedule: Schedule = "exponential",
        schedule_interval: Any = "epoch",
        step_factor: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            backbone=backbone,
            image_size=image_size,
            backbone_args={"mean": MEAN, "std": 1 / 255, **(backbone_args or {})},
            lr=lr,
            lr_rule=lr_rule,
            weight_decay=weight_decay,
            schedule=schedule,
            schedule_interval=schedule_interval,
            step_factor=step_factor,
            **kwargs,
        )
        for name, value in {"padding": padding, "reg": reg, "sigma": sigma}.items():
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.map_layer = last_map(self.backbone)
        _, height, width = self.backbone.map_shape(self.map_layer)
        if not 0 <= margin < min(height, width) / 2:
            raise ValueError(f"margin must lie in [0, {min(height, width) / 2:g}) for a map of {height} x {width}")
        self.padding, self.reg, self.margin = padding, reg, margin
        self.cells = (height, width)
        self.label_sigma = sigma * (height * width) ** 0.5 / (1 + padding)
        self.tracker_args = {"padding": padding, "reg": reg, "sigma": sigma, **(tracker or {})}
        self.tracker()  # whose errors are told now

    def setup(self, stage: str) -> None:
        """
        Raises:
            ValueError: the data are no videos.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and not isinstance(data, VideoData):
            raise ValueError(
                f"{type(self).__name__} learns from videos, and {type(data).__name__} has {data.unit}: take "
                "MovingDigits or VideoFolder"
            )

    def default_crops(self) -> Crops:
        """What the data cut from videos for this method."""
        return Crops(self.frames, self.padding, self.boxes)

    def maps(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) float in [0, 1] -> maps (B, C, H, W)."""
        return self.backbone.layer_map(x, self.map_layer)

    def inner_maps(self, x: Tensor) -> Tensor:
        """The same without the margin, as in training; not faded out, as when tracking: so the authors do."""
        height, width = self.cells
        return self.maps(x)[:, :, self.margin : height - self.margin, self.margin : width - self.margin]

    def label(self, shift: Tensor) -> Tensor:
        """Gaussians around shifts (B, 2) in cells -> (B, H, W), of maps without the margin."""
        height, width = (side - 2 * self.margin for side in self.cells)
        return gaussian(height, width, self.label_sigma, shift)

    def answer(self, template: Tensor, search: Tensor, label: Tensor) -> Tensor:
        """The answers (B, H, W) in the maps `search` of filters fitted to `template`, both (B, C, H, W)."""
        return respond(fit(template, label, self.reg), search)

    def tracker(self) -> Tracker:
        try:
            return Tracker(self.maps, self.image_size, self.device, **self.tracker_args)
        except TypeError as error:
            raise ValueError(f"tracker: {error}") from error

    def track(self, video: Video, box: Tensor) -> tuple[Tensor, float]:
        """See ssl_lightning.tracking.track."""
        return track(self.tracker(), video, box)

    def displacements(self, video: Video, first: int, later: list[int]) -> tuple[Tensor, Tensor]:
        """Displacements (n, 2) in cells of the target between frames, as it seems and as it is."""
        assert video.boxes is not None
        tracker = self.tracker()
        found = displacements(tracker, video, video.boxes, first, later).double().cpu()
        centres = video.boxes[:, :2] + video.boxes[:, 2:] / 2
        cell = video.boxes[first, 2:] * (1 + tracker.padding) / torch.tensor(self.cells[::-1])
        return found, (centres[later] - centres[first]) / cell

    def configure_callbacks(self) -> list[Callback]:
        return [FramePairs(), OnePassEvaluation()]

    def validation_step(self, batch: SequenceBatch, batch_idx: int, dataloader_idx: int = 0) -> None:  # type: ignore[override]
        """Nothing: the callbacks follow the targets."""

    test_step = validation_step  # type: ignore[assignment]
