"""DCFNet: Discriminant Correlation Filters Network for Visual Tracking.

Wang, Gao, Xing, Zhang, Hu, 2017. https://arxiv.org/abs/1704.04057
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.batch import VideoBatch
from datamodules.videos import Boxes
from ssl_lightning.distributed import mean_count
from ssl_lightning.siamese import SiameseModule


class DCF(SiameseModule):
    """Tell where the annotated target has moved, by a filter fitted to one frame: what UDT would reach with labels.

    The authors centre the second window on the target too. Here it stays where the template's was, as when tracking;
    targets whose centre has left it do not count.

    Args:
        kwargs: Filter, tracker, backbone and optimization, see SiameseModule.

    Raises:
        ValueError: a number is out of its range, or (when the run starts) the videos have no boxes.
    """

    boxes: ClassVar[Boxes] = "annotated"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        template, search = (self.inner_maps(frame) for frame in batch.frames.unbind(1))
        size = batch.frames.shape[-1]
        corner, sides = batch.box[:, 1].split(2, 1)
        off = (corner + sides / 2 - size / 2).flip(1)  # (B, 2) rows and columns in pixels
        seen = (sides > 0).all(1) & (off.abs() < size / 2).all(1)
        cells = torch.tensor(self.cells, device=off.device)
        origin = self.label(torch.zeros_like(off))
        error = (self.answer(template, search, origin) - self.label(off * cells / size)).square().sum((1, 2))
        return (error * seen).sum() / mean_count(seen.sum()).clamp(min=1)
