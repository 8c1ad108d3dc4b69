"""Pictures of what the features know: a map of the held-out images, and their nearest images in the bank."""

from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn import functional as F

from callbacks.features import FeatureCallback, Features, all_gather, balanced
from callbacks.knn import neighbours
from callbacks.pictures import save_picture, show
from datamodules.loader import Loader

MAX_CLASSES = 20  # as many as there are colours to tell apart


@runtime_checkable
class NamesClasses(Protocol):
    """A datamodule that knows its classes by name."""

    class_names: list[str]


class FeatureMap(FeatureCallback):
    """Draws two pictures into `pictures/` in the run's folder, and sends them to loggers of pictures:
    TensorBoard, Weights & Biases, MLflow, Comet.

    `feature_map-*.png` is a t-SNE of the queries' features (van der Maaten and Hinton, 2008), coloured by
    class, of at most 20 classes. `neighbours-*.png` shows queries, each with the bank images whose features
    are nearest: a green frame is the query's class, a red one another class, which is named. The same images
    are shown every time. Of text there is the map alone. Where several layers are evaluated,
    `feature_map-<layer>-*.png` and so on.

    Args:
        points: Most images on the map.
        rows: Most queries shown with their neighbours, of different classes.
        every_n_epochs: Epochs between two pictures during `fit`, 0 for none; `validate` and `test` always
            draw.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, points: int = 1500, rows: int = 8, every_n_epochs: int = 0) -> None:
        super().__init__(every_n_epochs)
        if points < 4 or rows < 1:
            raise ValueError(f"points must be 4 or more and rows 1 or more, got {points} and {rows}")
        self.points = points
        self.rows_shown = rows

    def on_features(self, trainer: Trainer, pl_module: LightningModule, bank: Features, query: Features) -> None:
        loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        kept = self.first(trainer).rows
        shown = query.take(balanced(query.label, torch.ones_like, seed=0)[: self.rows_shown])
        places = neighbours(bank.features, shown.features, min(8, len(bank.label)))[1]
        near = bank.take(places.flatten())
        query_images = images_of(pl_module, loaders[1], kept[1][self.layer], shown.index)
        near_images = images_of(pl_module, loaders[0], kept[0][self.layer], near.index)
        if not trainer.is_global_zero:
            return
        data = getattr(trainer, "datamodule", None)
        names = data.class_names if isinstance(data, NamesClasses) else []
        names = [
            names[i] if i < len(names) else str(i) for i in range(int(max(bank.label.max(), query.label.max())) + 1)
        ]
        classes = query.label.unique()
        mapped = query.take(torch.isin(query.label, classes[:MAX_CLASSES]))
        each = max(1, self.points // min(len(classes), MAX_CLASSES))
        mapped = mapped.take(balanced(mapped.label, lambda sizes: torch.full_like(sizes, each), seed=0))
        what = "sentences" if query_images is None else "images"
        title = f"{len(mapped.label)} held-out {what}" + (
            f" of the first {MAX_CLASSES} of {len(classes)} classes" if len(classes) > MAX_CLASSES else ""
        )
        pictures = {}
        if query_images is not None and near_images is not None:
            pictures["neighbours"] = draw_neighbours(query_images, shown.label, near_images, near.label, names)
        if len(mapped.label) > 3:
            pictures["feature_map"] = draw_map(mapped, names, title)
        for name, figure in pictures.items():
            save_picture(trainer, name + f"-{self.layer}" * bool(self.layer), figure)


def images_of(pl_module: LightningModule, loader: Loader, rows: list[Features], index: Tensor) -> Tensor | None:
    """The stored images (M, C, H, W), uint8 on the CPU, each read again by a process that served it; None of text.

    Args:
        pl_module: The model, attached to a trainer.
        loader: An evaluation loader of this process.
        rows: What it served.
        index: (M,) places in the data set, the same on all processes.

    Raises:
        ValueError: the loader cannot read single images again.
    """
    if not isinstance(loader, Loader):
        raise ValueError(
            f"FeatureMap reads images again with datamodules.loader.Loader, and the data have a "
            f"{type(loader).__name__}: use that loader, or leave FeatureMap out"
        )
    served = [i for batch in rows for i in batch.index.tolist()]
    position = dict(zip(served, chain.from_iterable(loader.sampler), strict=True))
    mine = [m for m, i in enumerate(index.tolist()) if i in position]
    batch = loader.dataset[[position[int(index[m])] for m in mine] or [0]]  # one at least, for its shape
    if not hasattr(batch, "image"):
        return None
    image = batch.image
    images = image.new_zeros(len(index), *image.shape[1:])
    images[mine] = image[: len(mine)]
    if pl_module.trainer.world_size > 1:  # zeros where a process had none
        images = torch.stack(all_gather(images.to(pl_module.device))).amax(0)
    return images.cpu()


def draw_map(rows: Features, names: list[str], title: str) -> Any:
    """A figure of 1000 by 800 pixels: t-SNE of the L2-normalised features, coloured by class."""
    from matplotlib import colormaps  # noqa: PLC0415  (slow to import)
    from matplotlib.figure import Figure  # noqa: PLC0415

    x = F.normalize(rows.features, dim=1).cpu().numpy()
    perplexity = min(30, (len(x) - 1) / 3)
    xy = TSNE(2, perplexity=perplexity, init="random", random_state=0).fit_transform(x)
    figure = Figure(figsize=(10, 8), dpi=100, layout="constrained")
    axes = figure.subplots()
    classes = rows.label.unique().tolist()
    colours = colormaps["tab10" if len(classes) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    for colour, c in zip(colours, classes, strict=False):
        of_class = (rows.label == c).cpu().numpy()
        axes.scatter(xy[of_class, 0], xy[of_class, 1], s=24, color=colour, alpha=0.8, linewidths=0, label=names[c])
    axes.set(title=f"t-SNE of the features of {title}", xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    figure.legend(loc="outside right upper", markerscale=1.5, frameon=False)
    return figure


def draw_neighbours(query: Tensor, query_label: Tensor, near: Tensor, near_label: Tensor, names: list[str]) -> Any:
    """A figure with a row for each query (Q, C, H, W), followed by its k neighbours `near` (Q*k, C, H, W)."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    k = len(near) // len(query)
    figure = Figure(figsize=(1.1 * (k + 1) + 1.4, 1.3 * len(query) + 0.6), dpi=100, layout="constrained")
    grid = figure.subplots(len(query), k + 1, squeeze=False)
    figure.suptitle("Held-out image, and the nearest images of the bank")
    for row, axes in enumerate(grid):
        label = int(query_label[row])
        show(axes[0], query[row], "black")
        axes[0].set_ylabel(names[label], rotation=0, ha="right", va="center")
        for column in range(k):
            other = int(near_label[row * k + column])
            show(axes[column + 1], near[row * k + column], "tab:green" if other == label else "tab:red")
            if other != label:
                axes[column + 1].set_xlabel(names[other], color="tab:red", fontsize=8, labelpad=2)
    return figure
