"""Boxes in frames: OTB's files, their checks, and the windows around them as squares of pixels.

A box is x, y, width, height in pixels, float. In memory x = 0 is the left edge of the first column; in OTB's files, and
on the command line, that column is number 1.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def read_boxes(path: Path) -> Tensor:
    """(N, 4) float64 of an OTB file: a line x,y,w,h for each frame, with commas, tabs or spaces between; a line of NaN
    where the target is not to be seen.

    Raises:
        ValueError: a line is no box.
    """
    boxes = []
    lines = path.read_text().rstrip().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            boxes.append(box_of(line))
        except ValueError as error:
            raise ValueError(f"sequence {path.parent.name}, line {number} of {path}: {error}") from None
    return torch.stack(boxes) if boxes else torch.empty(0, 4, dtype=torch.float64)


def box_of(words: str) -> Tensor:
    """(4,) float64 of a box x,y,w,h as OTB writes it.

    Raises:
        ValueError: it is no such box.
    """
    try:
        x, y, w, h = map(float, words.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"{words!r} is no box: give four numbers x,y,width,height") from None
    return torch.tensor([x - 1, y - 1, w, h], dtype=torch.float64)


def otb_lines(boxes: Tensor) -> str:
    """The text of an OTB file for boxes (N, 4)."""
    shifted = boxes.double() + torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    return "".join(",".join(f"{value:.2f}" for value in box) + "\n" for box in shifted.tolist())


def check_boxes(boxes: Iterable[Tensor], height: int, width: int, where: str, first: int = 1) -> None:
    """Frames without a box (NaN) pass, the first excepted.

    Args:
        boxes: (4,) each.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        where: Words for the sequence.
        first: Number of the first box's frame.

    Raises:
        ValueError: a box has no area or lies outside of the frame.
    """
    for number, box in enumerate(boxes, first):
        x, y, w, h = box.tolist()
        words = f"{where}, frame {number}: the box {x + 1:g},{y + 1:g},{w:g},{h:g}"
        if np.isnan([x, y, w, h]).any():
            if number == first:
                raise ValueError(f"{words} is not known, and tracking starts from it")
            continue
        if not (w > 0 and h > 0) or not np.isfinite([x, y, w, h]).all():
            raise ValueError(f"{words} has no area; a line nan,nan,nan,nan says that the target is not to be seen")
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise ValueError(f"{words} lies outside of the frame of {width} x {height}")


def windows(frame: Tensor, centre: Tensor, sides: Tensor, size: int) -> Tensor:
    """Windows of a frame as squares of pixels: bilinear, the frame's border repeated outside of it.

    Args:
        frame: (C, H, W) uint8 or float.
        centre: (2,) x and y of all windows.
        sides: (N, 2) widths and heights.
        size: Side of the squares.

    Returns:
        (N, C, size, size) float32 of the frame's range.
    """
    height, width = frame.shape[1:]
    steps = (torch.arange(size, device=frame.device) + 0.5) / size - 0.5
    centre, sides = (t.to(frame.device, torch.float32) for t in (centre, sides))
    x = (centre[0] + sides[:, :1] * steps) / width * 2 - 1  # (N, size)
    y = (centre[1] + sides[:, 1:] * steps) / height * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], 3)
    pixels = frame[None].float().expand(len(sides), -1, -1, -1)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
