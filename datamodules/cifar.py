"""CIFAR-10 and CIFAR-100."""

from typing import Any

import numpy as np
from torchvision import datasets

from datamodules.download import download, load
from datamodules.images import ImageData, Splits
from datamodules.sets import ImageArray

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class CIFAR10(ImageData):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, 10 classes.

    A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf

    Args:
        root: The folder with torchvision's files, downloaded to it if they are missing.
        image_size: Side of the views, in pixels.
    """

    archive = datasets.CIFAR10
    _classes = _CIFAR10

    def __init__(self, root: str = "data", image_size: int = 32, **kwargs: Any) -> None:
        super().__init__(image_size=image_size, in_channels=3, class_names=self._classes.split(), **kwargs)
        self.root = root

    def prepare_data(self) -> None:
        download(self.archive, self.root)

    def splits(self) -> Splits:
        train, test = self._part(train=True), self._part(train=False)
        return Splits(train, bank=train, val=test, test=test, predict=test)

    def _part(self, train: bool) -> ImageArray:
        part = load(self.archive, self.root, train=train)
        return ImageArray(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets))


class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels, 100 (fine) classes.

    A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf

    Args:
        root: The folder with torchvision's files, downloaded to it if they are missing.
        image_size: Side of the views, in pixels.
    """

    archive = datasets.CIFAR100
    _classes = _CIFAR100
