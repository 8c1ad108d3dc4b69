"""Pictures of a run: PNG files in its folder, also sent to loggers of pictures. And the pictures of pretext tasks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CometLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from callbacks.features import is_dry_run
from callbacks.results import atomic_open
from datamodules.batch import ImageBatch
from datamodules.loader import Loader


class Column(NamedTuple):
    """One column of a grid of pictures, whose rows are N images.

    Args:
        title: Stands above the column.
        images: (N, C, H, W) uint8, or float in [0, 1]. Of other than 1 or 3 channels the first three are drawn (of 2
            the first).
        captions: N lines below the pictures, or none.
        right: (N,) bool, whether what a picture shows is true: a green frame, else a red one. None: a black one.
    """

    title: str
    images: Tensor
    captions: Sequence[str] = ()
    right: Tensor | None = None


@runtime_checkable
class DrawsPictures(Protocol):
    """What PretextPictures needs of a method."""

    def pictures(self, batch: ImageBatch) -> list[Column]:
        """What the model makes of a batch, whose first view is the image. Every column has the batch's rows.

        It is called in evaluation mode, without gradients, on every process with the same batch.
        """


class HeldOutPictures(Callback, ABC):
    """Hands a few held-out samples to `draw`, on every process the same.

    They lie at even distances, the same ones every time. Where a run has none, they are training samples as training
    sees them. Neither weights nor random numbers of the training change.

    Args:
        every_n_epochs: Epochs between two pictures during ``fit``, 0 for none; ``validate`` and ``test`` always draw.
        rows: Most samples shown.

    Raises:
        ValueError: an argument is out of its range; when the run starts, the data have a loader that cannot read
            single samples.
    """

    def __init__(self, every_n_epochs: int = 10, rows: int = 8) -> None:
        if every_n_epochs < 0 or rows < 1:
            raise ValueError(f"every_n_epochs must be 0 or more and rows 1 or more, got {every_n_epochs} and {rows}")
        self.every_n_epochs = every_n_epochs
        self.rows = rows

    @abstractmethod
    def draw(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Called in evaluation mode, without gradients."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        self._draw(trainer, pl_module, loaders[-1] if isinstance(loaders, list) else loaders)  # the queries

    on_test_epoch_end = on_validation_epoch_end

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not any(trainer.num_val_batches):
            self._draw(trainer, pl_module, trainer.train_dataloader)

    def _draw(self, trainer: Trainer, pl_module: LightningModule, loader: Any) -> None:
        n = self.every_n_epochs
        fitting = trainer.state.fn == TrainerFn.FITTING
        if trainer.sanity_checking or is_dry_run(trainer) or (fitting and (n == 0 or (trainer.current_epoch + 1) % n)):
            return
        if not isinstance(loader, Loader):
            raise ValueError(
                f"{type(self).__name__} reads single samples with datamodules.loader.Loader, and the data have a "
                f"{type(loader).__name__}: use that loader, or leave the callback out"
            )
        data: Any = loader.dataset
        places = torch.linspace(0, len(data) - 1, self.rows).long().unique().tolist()
        modes = {module: module.training for module in pl_module.modules()}
        pl_module.eval()
        with torch.no_grad(), isolate_rng():
            self.draw(trainer, pl_module, trainer.strategy.batch_to_device(data[places], dataloader_idx=1))
        for module, training in modes.items():
            module.training = training


class PretextPictures(HeldOutPictures):
    """Draws what a method makes of its pretext task: ``pictures/pretext-*.png`` in the run's folder, a row an image,
    and sends it to loggers of pictures: TensorBoard, Weights & Biases, MLflow, Comet.

    The images lie at even distances in the held-out images, the same ones every time. Where a run has none, they are
    training images as training sees them. Neither weights nor random numbers of the training change.

    Args:
        every_n_epochs: Epochs between two pictures during ``fit``, 0 for none; ``validate`` and ``test`` always draw.
        rows: Most images shown.

    Raises:
        ValueError: an argument is out of its range; when the run starts, the method draws no pictures, or the data
            have a loader that cannot read single images.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, DrawsPictures):
            raise ValueError(
                f"PretextPictures needs a method that draws: write pictures(batch) for {type(pl_module).__name__}, or "
                "leave the callback out"
            )

    def draw(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        assert isinstance(pl_module, DrawsPictures)
        columns = pl_module.pictures(batch)
        if trainer.is_global_zero:
            save_picture(trainer, "pretext", draw_columns(columns))


def draw_columns(columns: Sequence[Column]) -> Any:
    """A figure with a column for each of `columns`, and a row for each of their images."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    rows = len(columns[0].images)
    height = 1.5 if any(column.captions for column in columns) else 1.3
    figure = Figure(figsize=(1.3 * len(columns) + 0.4, height * rows + 0.5), dpi=100, layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for place, column in enumerate(columns):
        grid[0, place].set_title(column.title, fontsize=9)
        for row, image in enumerate(column.images.cpu()):
            frame = "black" if column.right is None else "tab:green" if column.right[row] else "tab:red"
            show(grid[row, place], image, frame)
            if column.captions:
                grid[row, place].set_xlabel(column.captions[row], fontsize=8, labelpad=2)
    return figure


def show(axes: Any, image: Tensor, frame: str) -> None:
    """Draws an image (C, H, W), uint8 or float in [0, 1] on the CPU, with a frame of this colour."""
    pixels = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)  # of many bands the first three
    if pixels.is_floating_point():
        pixels = (255 * pixels.float()).round().clamp(0, 255).to(torch.uint8)
    axes.imshow(pixels.permute(1, 2, 0).numpy())
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=3)


def save_picture(trainer: Trainer, name: str, figure: Any) -> Path:
    """Writes `pictures/<name>-<stage>.png` into the run's folder, and sends it to loggers of pictures."""
    if trainer.state.fn == TrainerFn.FITTING:
        stage = f"{'train' if trainer.training else 'val'}-epoch{trainer.current_epoch:04d}"
    else:
        stage = "test" if trainer.testing else "val"
    path = Path(trainer.default_root_dir, "pictures", f"{name}-{stage}.png")
    with atomic_open(path) as file:
        figure.savefig(file, format="png")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(f"pictures/{name}", figure, trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(f"pictures/{name}", [str(path)])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path), "pictures")
        elif isinstance(logger, CometLogger):
            logger.experiment.log_image(str(path), f"pictures/{name}", step=trainer.global_step)
    return path
