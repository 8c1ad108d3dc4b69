"""Classify pictures with words: what ``ssl-lightning zeroshot`` does."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.pictures import show
from callbacks.results import atomic_open
from callbacks.zero_shot import AlignsText, check_prompts, class_embeddings
from datamodules.decode import UNREADABLE, read_image
from datamodules.image_folder import images_below
from ssl_lightning.base import ImageModule
from ssl_lightning.errors import import_class
from ssl_lightning.run import saved_method

BATCH = 64
SHOWN = 16  # pictures on the matrix


def load_aligned(checkpoint: Path) -> Any:
    """The method of a checkpoint, in evaluation mode on the CPU.

    Raises:
        ValueError: it embeds no texts.
    """
    cls = import_class(saved_method(checkpoint).class_path)
    if not (issubclass(cls, ImageModule) and issubclass(cls, AlignsText)):
        raise ValueError(f"{checkpoint} is of {cls.__name__}, which embeds no texts: give a checkpoint of CLIP")
    return cls.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()


def find_images(folder: Path) -> list[Path]:
    """The image files in a folder and below it, in order; hidden ones are left out.

    Raises:
        FileNotFoundError: there are none.
    """
    names = images_below(folder, folder)
    if not names:
        raise FileNotFoundError(f"there is no image in {folder.absolute()} or below it")
    return [folder / name for name in names]


def classify(
    model: Any, files: Sequence[Path], class_names: list[str], templates: list[str]
) -> tuple[Tensor, Tensor, np.ndarray]:
    """
    Returns:
        Cosines (N, C) of images and classes; probabilities (N, C), the softmax of the scaled cosines; the images
        (N, channels, S, S) uint8.

    Raises:
        ValueError: no names, one given twice, a template without {}, or an image that cannot be read.
    """
    check_prompts(class_names, templates)
    if twice := [name for i, name in enumerate(class_names) if name in class_names[:i]]:
        raise ValueError(f"the class {twice[0]!r} is given twice: drop one")
    channels, size = model.backbone.in_channels, model.image_size
    pixels = np.empty((len(files), channels, size, size), np.uint8)
    for row, file in zip(pixels, files, strict=True):
        try:
            row[:] = read_image(file, size, channels)
        except UNREADABLE as error:
            raise ValueError(f"cannot read {file}: {error}; remove it") from error
    with torch.no_grad():
        classes = class_embeddings(model, class_names, templates)
        parts = torch.from_numpy(pixels).split(BATCH)
        cosines = torch.cat([model.image_embeddings(model(part / 255)) @ classes.T for part in parts])
        return cosines, (model.logit_scale.exp() * cosines).softmax(1), pixels


def table(files: Sequence[str], class_names: list[str], probabilities: Tensor) -> str:
    """Lines of file, class and probability."""
    width = max(4, *map(len, files))
    words = max(5, *map(len, class_names))
    p, best = probabilities.max(1)
    lines = [f"{'file':<{width}}  {'class':<{words}}  probability"]
    rows = zip(files, best.tolist(), p.tolist(), strict=True)
    return "\n".join([*lines, *(f"{f:<{width}}  {class_names[i]:<{words}}  {value:11.3f}" for f, i, value in rows)])


def write(
    folder: Path,
    files: Sequence[str],
    class_names: list[str],
    cosines: Tensor,
    probabilities: Tensor,
    pixels: np.ndarray,
) -> None:
    """Write zeroshot.csv, a probability for each file and class, and zeroshot.png, the cosines of the first images."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["filepath", "class", *class_names])
    for file, row in zip(files, probabilities, strict=True):
        rows.writerow([file, class_names[int(row.argmax())], *(f"{p:.4f}" for p in row.tolist())])
    with atomic_open(folder / "zeroshot.csv") as out:
        out.write(text.getvalue().encode())
    with atomic_open(folder / "zeroshot.png") as out:
        draw(torch.from_numpy(pixels[:SHOWN]), cosines[:SHOWN], class_names).savefig(out, format="png")


def draw(images: Tensor, cosines: Tensor, class_names: list[str]) -> Any:
    """The similarity matrix: a column for each image (N, C, S, S), a row for each class, cosines in the cells, the
    nearest class of each image framed."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    n, classes = cosines.shape
    left = 0.3 + 0.08 * max(map(len, class_names))
    size = (left + 0.75 * n + 0.2, 0.85 + 0.36 * classes + 0.2)
    figure = Figure(figsize=size, dpi=110)
    cells = figure.add_axes((left / size[0], 0.15 / size[1], 0.75 * n / size[0], 0.36 * classes / size[1]))
    cells.imshow(cosines.T.numpy(), aspect="auto", cmap="viridis")
    cells.set_yticks(range(classes), class_names, fontsize=9)
    cells.set_xticks([])
    low, high = float(cosines.min()), float(cosines.max())
    for i in range(n):
        best = int(cosines[i].argmax())
        for c in range(classes):
            value = float(cosines[i, c])
            dark = value < low + 0.6 * (high - low)
            cells.text(i, c, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
        cells.add_patch(_frame(i - 0.5, best - 0.5))
        top = (0.15 + 0.36 * classes + 0.08) / size[1]
        place = ((left + 0.75 * i + 0.04) / size[0], top, 0.67 / size[0], 0.67 / size[1])
        show(figure.add_axes(place), images[i], "black")
    return figure


def _frame(x: float, y: float) -> Any:
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    return Rectangle((x, y), 1, 1, fill=False, edgecolor="tab:red", linewidth=2)
