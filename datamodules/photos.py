"""Crops of the two photographs that come with scikit-learn: colour and texture without a download."""

from typing import Any

import numpy as np
from sklearn.datasets import load_sample_image

from datamodules.images import ImageData, Splits
from datamodules.sets import ImageArray

_NAMES = ["china", "flower"]
_TRAIN, _TEST = 2000, 500  # crops
_TRAIN_PART = 0.7  # of the width of a photograph


class Photos(ImageData):
    """2,000 training and 500 test crops of two colour photographs (427x640); the label is the photograph.

    Training crops come from the left 70 % of a photograph and test crops from the rest, so they share no
    pixel. Places are the same for every seed.

    Args:
        image_size: Side of the crops and views, in pixels: 192 at most.
    """

    def __init__(self, image_size: int = 32, **kwargs: Any) -> None:
        if image_size > 192:
            raise ValueError(f"image_size must be at most 192 for Photos (the test part's width), got {image_size}")
        super().__init__(image_size=image_size, in_channels=3, class_names=list(_NAMES), **kwargs)

    def splits(self) -> Splits:
        photos = [load_sample_image(f"{name}.jpg").transpose(2, 0, 1) for name in _NAMES]  # (3, 427, 640)
        edge = round(_TRAIN_PART * photos[0].shape[2])
        train = self._crops([photo[:, :, :edge] for photo in photos], _TRAIN)
        test = self._crops([photo[:, :, edge:] for photo in photos], _TEST)
        return Splits(train, bank=train, val=test, test=test, predict=test)

    def _crops(self, photos: list[np.ndarray], n: int) -> ImageArray:
        rng, size = np.random.default_rng(0), self.image_size
        _, height, width = photos[0].shape
        top, left = rng.integers(height - size + 1, size=n), rng.integers(width - size + 1, size=n)
        labels = np.arange(n) % len(photos)
        crops = [photos[k][:, y : y + size, x : x + size] for k, y, x in zip(labels, top, left, strict=True)]
        return ImageArray(np.stack(crops), labels)
