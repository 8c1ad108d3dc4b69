"""STL-10: many unlabelled images to learn from, few labelled ones to evaluate with."""

from typing import Any, Literal

import numpy as np
from torchvision import datasets

from datamodules.download import download, load
from datamodules.images import ImageData, Splits
from datamodules.sets import ImageArray, Images, Part

_CLASSES = "airplane bird car cat deer dog horse monkey ship truck"


class STL10(ImageData):
    """STL-10: 96x96 pixels, 10 classes; 100,000 unlabelled, 5,000 labelled training and 8,000 test images.

    The bank is the labelled training images whatever the training images are.

    A. Coates, H. Lee and A. Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning",
    2011, https://proceedings.mlr.press/v15/coates11a.html

    Args:
        root: The folder with torchvision's files, downloaded to it if they are missing.
        image_size: Side of the views, in pixels.
        train_on: Which images to train on: the unlabelled, the labelled ("train"), or both.
    """

    def __init__(
        self,
        root: str = "data",
        image_size: int = 96,
        train_on: Literal["unlabeled", "train", "train+unlabeled"] = "unlabeled",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, in_channels=3, class_names=_CLASSES.split(), **kwargs)
        self.root = root
        self.train_on = train_on

    def prepare_data(self) -> None:
        download(datasets.STL10, self.root, split="test")

    def splits(self) -> Splits:
        test, train = self._part("test"), self._part(self.train_on)
        bank: Images = train
        if self.train_on == "unlabeled":
            bank = self._part("train")
        elif self.train_on == "train+unlabeled":
            bank = Part(train, np.flatnonzero(train.labels >= 0))
        return Splits(train, bank=bank, val=test, test=test, predict=test)

    def _part(self, split: str) -> ImageArray:
        part = load(datasets.STL10, self.root, split=split)
        # labels are stored as uint8
        return ImageArray(part.data, part.labels.astype(np.int64))
