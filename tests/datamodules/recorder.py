"""A model that only writes down which images it was given, and a set of images that are their own numbers."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from datamodules.batch import ImageBatch
from datamodules.images import ImageData, Splits
from datamodules.sets import ImageArray
from datamodules.views import CropFlipViews, Views


class Numbers(ImageData):
    """`n` training images of 8x8 pixels and 2 classes, and `queries` test images."""

    def __init__(self, n: int = 32, queries: int = 7, **kwargs: Any) -> None:
        super().__init__(image_size=8, in_channels=1, class_names=["even", "odd"], **kwargs)
        self.n, self.queries = n, queries

    def splits(self) -> Splits:
        train, test = numbers(self.n), numbers(self.queries)
        return Splits(train, train, test, test, test)


class Unlabelled(Numbers):
    def splits(self) -> Splits:
        train = numbers(self.n)
        return Splits(train, None, None, None, train)


def numbers(n: int) -> ImageArray:
    pixels = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 1, 8, 8))
    return ImageArray(pixels, np.arange(n) % 2, [f"{i}.png" for i in range(n)])


class Recorder(LightningModule):
    """Keeps the batches' indices by stage; its weight depends on the order in which it saw the views."""

    def __init__(self, views: Views | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.proposed = views or CropFlipViews(2)
        self.trained: list[list[int]] = []
        self.evaluated: list[tuple[int, list[int]]] = []
        self.batch: ImageBatch | None = None

    def default_views(self) -> Views:
        return self.proposed

    def training_step(self, batch: ImageBatch) -> Tensor:
        self.trained.append(batch.index.tolist())
        self.batch = batch
        noise = torch.rand(1)  # dropout, for instance
        return sum((view.mean() + noise - self.weight).square().sum() for view in batch.views)

    def validation_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluated.append((dataloader_idx, batch.index.tolist()))
        self.batch = batch

    test_step = validation_step

    def predict_step(self, batch: ImageBatch) -> Tensor:
        return batch.index

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def quiet_trainer(**kwargs: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(**quiet | kwargs)
