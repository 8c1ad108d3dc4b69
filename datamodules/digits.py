"""Handwritten digits that come with scikit-learn: the data set that needs no download."""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from datamodules.images import ImageData, Splits
from datamodules.sets import ImageArray, balanced_rows


class Digits(ImageData):
    """scikit-learn's 1,797 digits, 8x8 pixels and 17 grey levels, enlarged (bicubic) to `image_size`.

    1,437 are training images and 360, 36 of each class, test images; the split is the same for every seed.

    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", 1998,
    https://doi.org/10.24432/C50P49

    Args:
        image_size: Side of the images and views, in pixels.
        in_channels: 1 (grey) or 3 (the grey three times, for nets that expect colour).
    """

    def __init__(self, image_size: int = 32, in_channels: int = 3, **kwargs: Any) -> None:
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 or 3 for Digits, got {in_channels}")
        super().__init__(
            image_size=image_size, in_channels=in_channels, class_names=[str(i) for i in range(10)], **kwargs
        )

    def splits(self) -> Splits:
        digits = load_digits()
        grey = torch.from_numpy(digits.images).to(torch.float32)[:, None] * (255 / 16)  # (N, 1, 8, 8)
        large = F.interpolate(grey, size=(self.image_size, self.image_size), mode="bicubic")
        pixels = large.round().clamp(0, 255).to(torch.uint8).expand(-1, self.in_channels, -1, -1).numpy()
        held = balanced_rows(digits.target, 360, seed=0)
        rest = np.setdiff1d(np.arange(len(pixels)), held)
        train = ImageArray(pixels[rest], digits.target[rest])
        test = ImageArray(pixels[held], digits.target[held])
        return Splits(train, bank=train, val=test, test=test, predict=test)
