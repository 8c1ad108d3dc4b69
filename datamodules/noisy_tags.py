"""Tags that are made of labels, incomplete and partly wrong: weak supervision of which the truth is known."""

from abc import ABC
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch

from datamodules.cifar import CIFAR10
from datamodules.digits import Digits
from datamodules.draws import uniform
from datamodules.sets import Images
from datamodules.tags import TaggedData

TAG_DRAW = 0x7A6  # parts these draws from those of the views
WRONG = 2  # most wrong tags of an image


class NoisyTags(TaggedData, ABC):
    """Labelled images, each with tags that are drawn for it by (seed, image), the same in every epoch.

    The tags are the names of the classes and, in `groups`, coarser ones, of which each class has one. With the default
    probabilities an image has 1.8 tags in the mean, of which 0.8 are wrong; 9 % have none, 16 % only wrong ones, and
    half lack that of their class.

    Args:
        fine: Probability that an image has the tag of its class.
        coarse: Probability that it has the coarser one.
        wrong: Probability of each of two further tags, drawn evenly from those that are not true of the image; they may
            be the same.
        kwargs: Images, see ImageData.

    Raises:
        ValueError: a probability lies outside of [0, 1], or a class is not in one group.
    """

    groups: ClassVar[Mapping[str, Sequence[str]]]  # coarser tags, each with its classes

    def __init__(self, fine: float = 0.5, coarse: float = 0.5, wrong: float = 0.4, **kwargs: Any) -> None:
        for name, probability in {"fine": fine, "coarse": coarse, "wrong": wrong}.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"the probability {name} must lie in [0, 1], got {probability}")
        super().__init__(**kwargs)
        self.fine, self.coarse, self.wrong = fine, coarse, wrong
        self.tag_names = [*self.class_names, *self.groups]
        grouped = Counter(chain.from_iterable(self.groups.values()))
        names = {*self.class_names, *grouped}
        if wrong_names := [name for name in names if grouped[name] != 1 or name not in self.class_names]:
            raise ValueError(f"each class must be in one of the groups, and no other name: see {min(wrong_names)!r}")

    def tags(self, images: Images) -> list[list[int]]:
        group = {cls: tag for tag, classes in self.groups.items() for cls in classes}
        true = [[number, self.tag_names.index(group[cls])] for number, cls in enumerate(self.class_names)]
        untrue = [[tag for tag in range(self.num_tags) if tag not in of_class] for of_class in true]
        u = uniform(torch.arange(len(images)), 2 + 2 * WRONG, self.seed, TAG_DRAW).double()
        given = (u[:, :2] < torch.tensor([self.fine, self.coarse], dtype=torch.float64)).tolist()
        others = (u[:, 2 : 2 + WRONG] < self.wrong).tolist()
        which = (u[:, 2 + WRONG :] * len(untrue[0])).long().tolist()
        found: list[list[int]] = []
        for label, right, wrong, places in zip(images.labels.tolist(), given, others, which, strict=True):
            if label < 0:
                found.append([])
                continue
            tags = [tag for tag, has in zip(true[label], right, strict=True) if has]
            tags += {untrue[label][place] for place, has in zip(places, wrong, strict=True) if has}
            found.append(sorted(tags))
        return found


class DigitsTags(NoisyTags, Digits):
    """The images of `Digits` with noisy tags: the number, and whether it is drawn in loops, in curves or in lines.

    Args:
        kwargs: Tags and images, see NoisyTags and Digits.
    """

    groups: ClassVar[Mapping[str, Sequence[str]]] = {"loop": "0689", "curve": "235", "line": "147"}


class CIFAR10Tags(NoisyTags, CIFAR10):
    """The images of `CIFAR10` with noisy tags: the name of the class, and animal or vehicle.

    Args:
        kwargs: Tags and images, see NoisyTags and CIFAR10.
    """

    groups: ClassVar[Mapping[str, Sequence[str]]] = {
        "animal": ("bird", "cat", "deer", "dog", "frog", "horse"),
        "vehicle": ("airplane", "automobile", "ship", "truck"),
    }
