"""Unsupervised Representation Learning by Predicting Image Rotations.

Gidaris, Singh, Komodakis, 2018. https://arxiv.org/abs/1803.07728
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.pictures import Column
from datamodules.batch import ImageBatch
from ssl_lightning.pretext import PretextModule
from ssl_lightning.schedules import Schedule


def rotations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Every image turned by 0, 90, 180 and 270 degrees, counter-clockwise and exactly.

    Args:
        x: (B, C, S, S).

    Returns:
        (4B, C, S, S): the whole batch by 0, then by 90, ...; and (4B,) int64 in 0 ... 3.

    Raises:
        ValueError: the images are not square.
    """
    if x.shape[2] != x.shape[3]:
        raise ValueError(f"only square images can be turned by 90 degrees, got {x.shape[2]} x {x.shape[3]}: crop them")
    turned = torch.cat([torch.rot90(x, k, (2, 3)) for k in range(4)])
    return turned, torch.arange(4, device=x.device).repeat_interleave(len(x))


class RotNet(PretextModule):
    """How has the picture been turned: by 0, 90, 180 or 270 degrees?

    All four rotations of an image are in one batch. Logs ``train/accuracy`` and, of the held-out images,
    ``val/pretext_accuracy`` and ``test/pretext_accuracy``; 0.25 is chance. The last layers know about rotations what an
    earlier one knows about the image: ``feature_layer`` chooses (in the paper's 4-block network the second block).

    The numbers are the authors' for CIFAR-10 with 200 epochs and the backbone nin4.

    Args:
        optimizer: See SSLModule.
        lr: 0.1 for a batch of 128, of which come 512 rotated images.
        base_batch_size: 128.
        weight_decay: Of all parameters.
        optimizer_args: None: Nesterov's momentum 0.9 with SGD.
        schedule: See SSLModule.
        milestones: Epochs 60, 120 and 160 of 200.
        step_factor: The rate falls to a fifth at each milestone.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.
    """

    score_name = "accuracy"
    task = "4 rotations of an image"

    def __init__(
        self,
        optimizer: str = "SGD",
        lr: float = 0.1,
        base_batch_size: int = 128,
        weight_decay: float = 5e-4,
        optimizer_args: dict[str, Any] | None = None,
        schedule: Schedule = "step",
        milestones: tuple[float, ...] = (0.3, 0.6, 0.8),
        step_factor: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            lr=lr,
            base_batch_size=base_batch_size,
            weight_decay=weight_decay,
            optimizer_args={"nesterov": True} if optimizer_args is None and optimizer == "SGD" else optimizer_args,
            schedule=schedule,
            milestones=milestones,
            step_factor=step_factor,
            **kwargs,
        )
        self.head = nn.Linear(self.backbone.dim, 4)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        logits, rotation = self.turn_and_tell(batch)
        accuracy = (logits.argmax(1) == rotation).float().mean()
        return {"loss": F.cross_entropy(logits, rotation), "accuracy": accuracy}

    def turn_and_tell(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Logits (4B, 4) float32 of the images in all rotations, and these, see `rotations`."""
        x, rotation = rotations(batch.views[0])
        return self.head(self.backbone(x)).float(), rotation

    def scores(self, batch: ImageBatch) -> Tensor:
        logits, rotation = self.turn_and_tell(batch)
        return (logits.argmax(1) == rotation).float()

    def pictures(self, batch: ImageBatch) -> list[Column]:
        """The four rotations of each image, and what the model takes each for."""
        logits, _ = self.turn_and_tell(batch)
        x, said = rotations(batch.views[0])[0], logits.argmax(1)
        columns = []
        for k, (images, told) in enumerate(zip(x.chunk(4), said.chunk(4), strict=True)):
            captions = [f"said {90 * answer}°" for answer in told.tolist()]
            columns.append(Column(f"{90 * k}°", images, captions, right=told.cpu() == k))
        return columns
