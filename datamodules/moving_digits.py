"""Digits that move over photographs: annotated video that needs no download."""

from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor
from torch.nn import functional as F

from datamodules.sets import balanced_rows
from datamodules.video import Video
from datamodules.videos import VideoData, Videos

HEIGHT, WIDTH = 96, 128
PARTS = ("train", "val", "test")
COLUMNS = {"train": (0, 320), "val": (320, 480), "test": (480, 640)}  # of the photographs
HELD_OUT = 360  # digits for validation, and as many for the test
DISTRACTORS = 5
SIDE = 28  # of a digit's 8x8 pixels at scale 1


@cache
def digits() -> tuple[Tensor, np.ndarray]:
    """Ink (1797, 8, 8) float32 in [0, 1] and classes."""
    found = load_digits()
    return torch.from_numpy(found.images).float() / 16, found.target


@cache
def photos() -> list[Tensor]:
    """Two photographs (3, 427, 640) float32 in [0, 255]."""
    return [torch.from_numpy(load_sample_image(f"{name}.jpg").transpose(2, 0, 1).copy()).float() for name in NAMES]


NAMES = ("china", "flower")


@cache
def rows_of(part: str) -> np.ndarray:
    """The digits of a part: no part has one of another's."""
    _, classes = digits()
    test = balanced_rows(classes, HELD_OUT, seed=0)
    rest = np.setdiff1d(np.arange(len(classes)), test)
    val = rest[balanced_rows(classes[rest], HELD_OUT, seed=0)]
    return {"test": test, "val": val, "train": np.setdiff1d(rest, val)}[part]


class DigitVideo(Video):
    """One video, drawn when its first frame is asked for: a function of part, number and length.

    A digit, the target, and five of other classes in its colour move over a photograph, over which the camera pans.
    Sizes, light and its direction change smoothly.

    Args:
        part: train, val or test.
        number: Of the video in its part.
        length: Frames.
    """

    def __init__(self, part: str, number: int, length: int) -> None:
        super().__init__(f"{part}-{number:03d}", None)
        self.part, self.number, self.length = part, number, length
        self._frames: Tensor | None = None
        self._plan()

    def __len__(self) -> int:
        return self.length

    def frame(self, i: int) -> Tensor:
        if self._frames is None:
            self._frames = self._draw()
        return self._frames[i]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frames": None}  # a worker draws its own

    def _plan(self) -> None:
        """Which digits, where and how large, and the target's boxes."""
        rng = self.rng = np.random.default_rng([PARTS.index(self.part), self.number])
        ink, classes = digits()
        mine = rows_of(self.part)
        target = rng.choice(mine)
        others = rng.choice(mine[classes[mine] != classes[target]], DISTRACTORS, replace=False)
        self.ink = ink[[*others, target]]  # the target is drawn last, above the others
        n = DISTRACTORS + 1
        self.sides = SIDE * np.exp(0.35 * waves(rng, n, self.length, 20, 60))  # (n, T)
        starts = rng.uniform(0, 1, (n, 2)) * (WIDTH - SIDE, HEIGHT - SIDE) + SIDE / 2
        speeds = rng.uniform(0.7, 2.5, (n, 1)) * unit(rng, n)
        sway = 3 * np.stack([waves(rng, n, self.length, 8, 25) for _ in range(2)], 2)  # (n, T, 2)
        path = starts[:, None] + speeds[:, None] * np.arange(self.length)[:, None] + sway
        edge = SIDE / 2 + 2
        self.centres = bounce(path, np.array([edge, edge]), np.array([WIDTH - edge, HEIGHT - edge]))  # (n, T, 2)
        seen = ink[target] > 0.25
        across, down = (torch.nonzero(seen.any(axis)).flatten().tolist() for axis in (0, 1))
        left, right, top, bottom = across[0], across[-1] + 1, down[0], down[-1] + 1
        cell = self.sides[-1] / 8
        x = self.centres[-1, :, 0] + (left - 4) * cell
        y = self.centres[-1, :, 1] + (top - 4) * cell
        self.boxes = torch.from_numpy(np.stack([x, y, (right - left) * cell, (bottom - top) * cell], 1))

    def _draw(self) -> Tensor:
        """(T, 3, HEIGHT, WIDTH) uint8."""
        rng = np.random.default_rng([PARTS.index(self.part), self.number, 1])
        times = np.arange(self.length)
        first, last = COLUMNS[self.part]
        photo = photos()[self.number % len(NAMES)][:, :, first:last]
        room = np.array([last - first - WIDTH, photo.shape[1] - HEIGHT])
        pan = rng.uniform(0, 1, (1, 2)) * room + rng.uniform(0.4, 1.6) * unit(rng, 1) * times[:, None]
        pan = bounce(pan, np.zeros(2), room.astype(float))  # (T, 2)
        frames = sampled(photo[None].expand(self.length, -1, -1, -1), *corners(pan, WIDTH, HEIGHT), WIDTH, HEIGHT)
        colour = torch.from_numpy(rng.uniform(0, 1, 3)).float()
        colour *= 255 / colour.max()
        shades = 1 + 0.1 * torch.from_numpy(rng.uniform(-1, 1, len(self.ink))).float()
        for ink, shade, sides, centres in zip(self.ink, shades, self.sides, self.centres, strict=True):
            where = torch.from_numpy(centres).float(), torch.from_numpy(sides).float()
            wide = F.max_pool2d(F.pad(ink, (1, 1, 1, 1))[None], 3, 1, 1)[0]
            frames = frames * (1 - 0.3 * placed(wide, *where))  # a dark edge, to be seen on a bright background too
            frames = torch.lerp(frames, (colour * shade)[:, None, None].clamp(0, 255), 0.8 * placed(ink, *where))
        return self._lit(frames, rng)

    def _lit(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """Under light whose strength and colour change, that comes from a side which turns, and with a soft shadow that
        sweeps across; with the noise of a sensor. (T, 3, HEIGHT, WIDTH) uint8."""
        times = torch.arange(self.length)
        waved = torch.from_numpy(waves(rng, 4, self.length, 10, 40)).float()
        gain = (0.35 * waved[:1] + 0.1 * waved[1:]).exp().T[:, :, None, None]  # (T, 3, 1, 1)
        turn, shadow, width = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.8)
        y, x = torch.meshgrid(torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij")
        angle = (turn + 0.1 * times)[:, None, None]
        slope = 1 + 0.35 * (angle.cos() * x + angle.sin() * y)
        along = np.cos(shadow) * x + np.sin(shadow) * y
        sweep = 1.8 * torch.from_numpy(waves(rng, 1, self.length, 20, 60)[0]).float()[:, None, None]
        shade = 1 - 0.5 * (8 * (width - (along - sweep).abs())).sigmoid()
        noise = torch.from_numpy(rng.normal(0, 8, frames.shape)).float()
        return (frames * gain * (slope * shade)[:, None] + noise).round().clamp(0, 255).to(torch.uint8)


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 2) directions."""
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def waves(rng: np.random.Generator, n: int, length: int, shortest: float, longest: float) -> np.ndarray:
    """(n, length) sine waves with periods in frames between two bounds."""
    period, phase = rng.uniform(shortest, longest, (n, 1)), rng.uniform(0, 2 * np.pi, (n, 1))
    return np.sin(2 * np.pi * np.arange(length) / period + phase)


def bounce(path: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A path folded back at the walls."""
    room = high - low
    place = (path - low) % (2 * room)
    return low + np.minimum(place, 2 * room - place)


def corners(pan: np.ndarray, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Places (T, width) and (T, height) in the photograph of a frame's pixels."""
    x, y = torch.from_numpy(pan).float().T
    return x[:, None] + torch.arange(width) + 0.5, y[:, None] + torch.arange(height) + 0.5


def sampled(images: Tensor, x: Tensor, y: Tensor, width: int, height: int) -> Tensor:
    """(T, C, height, width) of images (T, C, H, W) at the places x (T, width) and y (T, height), zeros outside."""
    size_y, size_x = images.shape[2:]
    grid = torch.stack(
        [
            (x / size_x * 2 - 1)[:, None, :].expand(-1, height, -1),
            (y / size_y * 2 - 1)[:, :, None].expand(-1, -1, width),
        ],
        3,
    )
    return F.grid_sample(images, grid, align_corners=False)


def placed(ink: Tensor, centres: Tensor, sides: Tensor) -> Tensor:
    """Ink (n, n) in every frame, (T, 1, HEIGHT, WIDTH), of centres (T, 2) and, for 8 cells, sides (T,) in pixels."""
    n, cell = len(ink), sides[:, None] / 8
    x = (torch.arange(WIDTH) + 0.5 - centres[:, :1]) / cell + n / 2
    y = (torch.arange(HEIGHT) + 0.5 - centres[:, 1:]) / cell + n / 2
    return sampled(ink.expand(len(sides), 1, n, n), x, y, WIDTH, HEIGHT)


class MovingDigits(VideoData):
    """A digit, the target, and five of other classes in its colour, which move over scikit-learn's two photographs in
    frames of 96 x 128 pixels, annotated; no download. The camera pans, sizes and light change.

    Training, validation and test share neither digits nor parts of the photographs. The videos are the same for every
    seed.

    Args:
        train_videos: Videos to learn from.
        val_videos: Videos that are scored while training.
        test_videos: Videos that `test` scores.
        length: Frames of a video.
        image_size: Side of the windows in pixels.
        kwargs: Windows, batches and order, see VideoData.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        train_videos: int = 60,
        val_videos: int = 20,
        test_videos: int = 30,
        length: int = 60,
        image_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        self.train_videos, self.val_videos, self.test_videos, self.length = (
            train_videos,
            val_videos,
            test_videos,
            length,
        )
        self._at_least(train_videos=1, val_videos=0, test_videos=0, length=2)

    def videos(self) -> Videos:
        counts = (self.train_videos, self.val_videos, self.test_videos)
        parts: list[list[Video]] = [
            [DigitVideo(part, i, self.length) for i in range(count)] for part, count in zip(PARTS, counts, strict=True)
        ]
        return Videos(*parts)
