"""A model and data so small that a run takes a fraction of a second."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from datamodules.batch import ImageBatch
from datamodules.loader import EvalBatches, Loader
from datamodules.sets import ImageArray


def blobs(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 4, 4) uint8 that scatter around a colour of their class, and their labels."""
    centres = np.random.default_rng(0).uniform(60, 190, (classes, 3, 4, 4))
    labels = np.arange(n) % classes
    noise = np.random.default_rng(seed).normal(0, 25, (n, 3, 4, 4))
    return (centres[labels] + noise).clip(0, 255).astype(np.uint8), labels


class TinyModel(LightningModule):
    """Learns nothing useful, but draws random numbers in training, so that a stray draw shows."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(48, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        x = batch.image.float() / 255
        return self(x + 0.1 * torch.randn_like(x)).square().mean()

    def validation_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self(batch.image.float() / 255)

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TinyData(LightningDataModule):
    """Bank and queries of blobs."""

    def __init__(
        self, bank: int = 61, queries: int = 23, classes: int = 4, labelled: bool = True, batch_size: int = 8
    ) -> None:
        super().__init__()
        self.class_names = [f"class {i}" for i in range(classes)]
        self.labelled = labelled
        self.batch_size = batch_size
        self.sets = [self._set(bank, classes, 1), self._set(queries, classes, 2)]

    def _set(self, n: int, classes: int, seed: int) -> ImageArray:
        images, labels = blobs(n, classes, seed)
        return ImageArray(images, labels if self.labelled else np.full(n, -1), [f"{i}.png" for i in range(n)])

    @property
    def names(self) -> list[str] | None:
        return self.sets[1].names

    def _loader(self, of: int) -> Loader:
        return Loader(self.sets[of], EvalBatches(len(self.sets[of]), self.batch_size))

    def train_dataloader(self) -> Loader:
        return self._loader(0)

    def val_dataloader(self) -> list[Loader]:
        return [self._loader(0), self._loader(1)]

    def test_dataloader(self) -> list[Loader]:
        return self.val_dataloader()

    def predict_dataloader(self) -> Loader:
        return self._loader(1)

    def transfer_batch_to_device(self, batch: ImageBatch, device: torch.device, dataloader_idx: int) -> ImageBatch:
        return batch._replace(image=batch.image.to(device), label=batch.label.to(device))


def trainer(folder: Path, *callbacks: Callback, **kwargs: Any) -> Trainer:
    """A quiet trainer on the CPU that writes to `folder` only."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    return Trainer(**settings | kwargs)


TWO_PROCESSES = {"devices": 2, "strategy": "ddp_fork"}
