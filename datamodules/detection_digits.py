"""Digits on photographs, with boxes: detection that needs no download."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.detection import BoxedArray, DetectionData, Objects, Parts
from datamodules.moving_digits import COLUMNS, NAMES, PARTS, digits, photos, rows_of

MOST = 5  # digits in an image
SIDES = (0.25, 0.55)  # of the square of a scan, as shares of the image's side
SEEN = 0.25  # ink that counts as the digit
APART = 0.1  # the share of a box that others may cover
TRIES = 20  # to find a digit a place


class DetectionDigits(DetectionData):
    """One to five of scikit-learn's digits, of different sizes and colours, on a part of one of its two photographs; no
    download. The class is the digit, its box the smallest around its ink.

    Training, validation and test share neither digits nor parts of the photographs. The images are the same for every
    seed.

    Args:
        train_images: Images to learn from.
        val_images: Images that are scored while training.
        test_images: Images that `test` scores.
        image_size: Side of the images in pixels: 160 at most.
        kwargs: Batches and order, see DetectionData.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        train_images: int = 1000,
        val_images: int = 200,
        test_images: int = 500,
        image_size: int = 64,
        **kwargs: Any,
    ) -> None:
        first, last = COLUMNS["test"]
        if image_size > last - first:
            raise ValueError(f"image_size must be at most {last - first} for DetectionDigits, got {image_size}")
        super().__init__([str(digit) for digit in range(10)], image_size, in_channels=3, flip=0.0, **kwargs)
        self.train_images, self.val_images, self.test_images = train_images, val_images, test_images
        self._at_least(train_images=1, val_images=0, test_images=0)

    def parts(self) -> Parts:
        counts = (self.train_images, self.val_images, self.test_images)
        train, val, test = (
            scenes(part, count, self.image_size) if count else None for part, count in zip(PARTS, counts, strict=True)
        )
        assert train is not None
        return Parts(train, val, test)


def scenes(part: str, n: int, size: int, most: int = MOST, sides: tuple[float, float] = SIDES) -> BoxedArray:
    """The first n images (3, size, size) of train, val or test, see scene."""
    images, objects = zip(*(scene(part, number, size, most, sides) for number in range(n)), strict=True)
    return BoxedArray(torch.stack(images), list(objects))


def scene(
    part: str, number: int, size: int, most: int = MOST, sides: tuple[float, float] = SIDES
) -> tuple[Tensor, Objects]:
    """An image and its digits, a function of the arguments.

    Args:
        part: train, val or test.
        number: Of the image in its part.
        size: Side of the image in pixels.
        most: Digits at most; at least one.
        sides: Least and greatest side of the square of a scan, as shares of the image's side: 0.8 at most.

    Returns:
        (3, size, size) uint8, and the digits.
    """
    rng = np.random.default_rng([PARTS.index(part), number, 2])
    ink, classes = digits()
    first, last = COLUMNS[part]
    photo = photos()[number % len(NAMES)][:, :, first:last]
    y, x = (rng.integers(room - size + 1) for room in photo.shape[1:])
    image = photo[:, y : y + size, x : x + size].clone()
    boxes = torch.empty(0, 4)
    labels: list[int] = []
    for row in rng.choice(rows_of(part), rng.integers(1, most + 1), replace=False):
        side = size * np.exp(rng.uniform(*np.log(sides)))
        strokes = F.pad(ink[row], (1, 1, 1, 1))[None, None]
        patch = (round(side * 10 / 8),) * 2
        edge, alpha = (
            F.interpolate(grid, patch, mode="bilinear")[0] for grid in (F.max_pool2d(strokes, 3, 1, 1), strokes)
        )
        colour = torch.from_numpy(rng.uniform(0, 1, 3)).float()[:, None, None]
        colour, around = colour / colour.max() * 255, 0.0
        if rng.uniform() < 0.5:  # a dark digit with a bright edge
            colour, around = 255 - colour, 255.0
        tries = torch.from_numpy(rng.integers(size - patch[0] + 1, size=(TRIES, 2)))
        free = torch.nonzero(covered(extent(alpha[0]) + tries.repeat(1, 2), boxes) <= APART)
        if not len(free):
            continue
        x, y = tries[free[0, 0]].tolist()
        box = extent(alpha[0]) + torch.tensor([x, y, x, y])
        place = image[:, y : y + patch[0], x : x + patch[0]]  # a view
        place.lerp_(torch.full_like(place, around), 0.4 * edge)
        place.lerp_(colour.expand_as(place), 0.9 * alpha)
        boxes, labels = torch.cat([boxes, box[None]]), [*labels, classes[row]]
    label = torch.tensor(np.array(labels), dtype=torch.int64)
    return image.round().clamp(0, 255).to(torch.uint8), Objects(boxes, label, torch.zeros(len(label), dtype=torch.bool))


def extent(alpha: Tensor) -> Tensor:
    """(4,) float32: the box around the ink of (n, n)."""
    seen = alpha > SEEN
    down, across = (torch.nonzero(seen.any(axis)).flatten() for axis in (1, 0))
    return torch.stack([across[0], down[0], across[-1] + 1, down[-1] + 1]).float()


def covered(boxes: Tensor, others: Tensor) -> Tensor:
    """(n,): the largest share that each of the boxes (n, 4) and one of the others (m, 4) have in common, of the smaller
    of the two; 0 without others."""
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    common = (torch.minimum(boxes[:, None, 2:], others[:, 2:]) - low).clamp(min=0).prod(2)  # (n, m)
    areas, theirs = ((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, others))
    return F.pad(common / torch.minimum(areas[:, None], theirs), (1, 0)).amax(1)
