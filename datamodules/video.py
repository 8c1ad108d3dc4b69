"""One video: frames by number, and boxes where it is annotated."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.boxes import check_boxes, read_boxes
from datamodules.decode import UNREADABLE, readable_extensions

BOXES = "groundtruth_rect.txt"


class Video(ABC):
    """Frames of one size.

    Args:
        name: In messages and results.
        boxes: (N, 4) float64, see datamodules/boxes.py; a row of NaN where the target is not to be seen. None: not
            annotated.
    """

    def __init__(self, name: str, boxes: Tensor | None) -> None:
        self.name, self.boxes = name, boxes

    @abstractmethod
    def __len__(self) -> int:
        """The number of frames."""

    @abstractmethod
    def frame(self, i: int) -> Tensor:
        """(3, H, W) uint8."""


class FrameFolder(Video):
    """A folder of image files, in ``img/`` or in the folder itself, in the order of their names, with or without
    ``groundtruth_rect.txt``, as in OTB.

    Args:
        folder: The sequence; its name is the folder's.
        annotated: Whether to read the boxes where there are some.
        keep: Whether frames stay in memory once they are read.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: there is one frame only, annotation that does not match the frames, or a box without area or outside
            of the frame.
    """

    def __init__(self, folder: Path, annotated: bool = True, keep: bool = False) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder.absolute()}")
        self.folder, self.keep = folder, keep
        self.files = frame_files(folder)
        name = folder.resolve().name
        if not self.files:
            raise FileNotFoundError(f"sequence {name}: there is no image in {folder} or {folder / 'img'}")
        if len(self.files) < 2:
            raise ValueError(f"sequence {name} has one frame only, {self.files[0]}: a video has two or more")
        super().__init__(name, None)
        self._frames: dict[int, Tensor] = {}
        self._shape: tuple[int, ...] = ()
        if annotated and (folder / BOXES).is_file():
            boxes = read_boxes(folder / BOXES)
            if len(boxes) != len(self.files):
                raise ValueError(
                    f"sequence {name}: {len(boxes)} lines in {folder / BOXES}, but {len(self.files)} frames: frame "
                    f"{min(len(boxes), len(self.files)) + 1} is the first without a partner"
                )
            _, height, width = self.frame(0).shape
            check_boxes(boxes, height, width, f"sequence {name}")
            self.boxes = boxes

    def __len__(self) -> int:
        return len(self.files)

    def frame(self, i: int) -> Tensor:
        """
        Raises:
            ValueError: the frame cannot be read, or is not as large as the first one.
        """
        if i in self._frames:
            return self._frames[i]
        where = f"sequence {self.name}, frame {i + 1}"
        try:
            with Image.open(self.files[i]) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
        except UNREADABLE as error:
            raise ValueError(f"{where}: cannot read {self.files[i]}: {error}; replace it or remove it") from error
        if not self._shape:
            self._shape = pixels.shape if i == 0 else self.frame(0).shape
        if pixels.shape != self._shape:
            (_, height, width), (_, h, w) = self._shape, pixels.shape
            raise ValueError(
                f"{where}: {self.files[i]} has {w} x {h} pixels, but frame 1 has {width} x {height}: the frames of a "
                "sequence have one size"
            )
        if self.keep:
            self._frames[i] = pixels
        return pixels


def frame_files(folder: Path) -> list[Path]:
    """The image files of a sequence, in the order of their names; none where the folder is no sequence."""
    inner = folder / "img"
    known = readable_extensions()
    found = (inner if inner.is_dir() else folder).iterdir()
    return sorted(path for path in found if path.suffix.lower() in known and path.is_file())


def find_videos(root: Path, annotated: bool = True, keep: bool = False) -> list[FrameFolder]:
    """The sequence that a folder is, or those in it, in the order of their names.

    Raises:
        FileNotFoundError: there is no such folder, or no sequence in it.
        ValueError: see FrameFolder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root.absolute()}")
    if frame_files(root):
        return [FrameFolder(root, annotated, keep)]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    videos = [FrameFolder(path, annotated, keep) for path in folders if frame_files(path)]
    if not videos:
        raise FileNotFoundError(f"there is no sequence in {root.absolute()}: give a folder of frames, or of such")
    return videos
