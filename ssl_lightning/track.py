"""Follow a target through a folder of frames: what ``ssl-lightning track`` does."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.results import atomic_open
from callbacks.tracking import TracksTargets
from datamodules.boxes import otb_lines
from datamodules.video import Video
from ssl_lightning.base import ImageModule
from ssl_lightning.errors import import_class
from ssl_lightning.run import saved_method

SHOWN = 12  # frames on the strip
COLUMNS = 4


def load_tracking(checkpoint: Path) -> Any:
    """The method of a checkpoint, in evaluation mode on the CPU.

    Raises:
        ValueError: it does not track.
    """
    cls = import_class(saved_method(checkpoint).class_path)
    if not (issubclass(cls, ImageModule) and issubclass(cls, TracksTargets)):
        raise ValueError(f"{checkpoint} is of {cls.__name__}, which does not track: give a checkpoint of UDT or DCF")
    return cls.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()


def write(folder: Path, video: Video, boxes: Tensor) -> None:
    """Write boxes.txt, a line x,y,w,h for each frame as in OTB, and track.png, frames at even distances with boxes."""
    with atomic_open(folder / "boxes.txt") as file:
        file.write(otb_lines(boxes).encode())
    with atomic_open(folder / "track.png") as file:
        draw(video, boxes).savefig(file, format="png")


def draw(video: Video, boxes: Tensor) -> Any:
    """A figure of frames with the boxes (N, 4), red, and the annotated ones where there are some, green."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    places = torch.linspace(0, len(video) - 1, SHOWN).round().long().unique().tolist()
    rows = -(-len(places) // COLUMNS)
    _, height, width = video.frame(0).shape
    figure = Figure(figsize=(3 * COLUMNS, (3 * height / width + 0.25) * rows), dpi=100, layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, place in zip(grid, places, strict=False):
        axes.imshow(video.frame(place).permute(1, 2, 0).numpy(), extent=(0, width, height, 0))
        axes.set_title(f"frame {place + 1}", fontsize=9)
        drawn = (
            [(boxes[place], "red")] if video.boxes is None else [(video.boxes[place], "lime"), (boxes[place], "red")]
        )
        for box, colour in drawn:
            x, y, w, h = box.tolist()
            axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=colour, linewidth=1.8))
    return figure
