"""Images with tags: what the data sets of weakly supervised methods share."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from datamodules.batch import ImageBatch, TaggedBatch
from datamodules.images import ImageData
from datamodules.loader import ResampledBatches, TrainLoader
from datamodules.sets import Images, Part, places, whole


class TaggedData(ImageData, ABC):
    """Images with one or more tags each, of which some are wrong and some are missing.

    A data set is a subclass that gives `tag_names` and says in `tags` which an image has. A training batch is a
    `TaggedBatch`. Training images without a tag are left out, and a line says how many; evaluation sees all of them,
    without tags.

    An image comes up in proportion to 1 / sqrt(f), where f is the frequency of its rarest tag (Mahajan et al. 2018). An
    epoch has as many places as there are tagged images; an image that takes several of them looks the same in each.

    Args:
        kwargs: Images, see ImageData.

    Raises:
        ValueError: when the run starts, no training image has a tag.
    """

    tag_names: list[str]
    _tags: np.ndarray | None = None  # (N, K) of the whole set

    @abstractmethod
    def tags(self, images: Images) -> list[list[int]]:
        """The tags of each image of a whole set that `splits` has given, as places in `tag_names`, none twice."""

    @property
    def num_tags(self) -> int:
        return len(self.tag_names)

    def setup(self, stage: str) -> None:
        self._refuse_unlabelled()
        super().setup(stage)
        if self._tags is None and stage == "fit":
            splits = self._ready()
            self._tags = filled(self.tags(whole(splits.train)))
            number = (self._tags[places(splits.train)] >= 0).sum(1)  # of tags of each image
            n, found = len(number), np.flatnonzero(number)
            if not len(found):
                raise ValueError(f"none of the {n} training images has one of the {self.num_tags} tags")
            left_out = f"; {n - len(found):,} of {n:,} training images have none and are left out"
            on_average = f"{self.num_tags:,} tags, {number[found].mean():.1f} on an image in the mean"
            rank_zero_info(on_average + left_out * (len(found) < n))
            self._splits = splits._replace(train=Part(splits.train, found))

    def train_dataloader(self) -> TrainLoader:
        images = self._ready().train
        assert self._tags is not None
        weights = rarity(self._tags[places(images)], self.num_tags)
        return self._training(images, ResampledBatches(weights, self.batch_size, self.seed))

    def on_before_batch_transfer(
        self, batch: ImageBatch | TaggedBatch, dataloader_idx: int
    ) -> ImageBatch | TaggedBatch:
        assert self.trainer is not None
        if self.trainer.training and isinstance(batch, ImageBatch):
            assert self._tags is not None
            tags = torch.from_numpy(self._tags[batch.index.numpy()])
            return TaggedBatch(batch.image, batch.label, batch.index, tags)
        return batch


def filled(tags: list[list[int]]) -> np.ndarray:
    """(N, K) int64 with K the most tags of an image, filled with -1."""
    table = np.full((len(tags), max(map(len, tags), default=0)), -1, dtype=np.int64)
    for row, of_one in zip(table, tags, strict=True):
        row[: len(of_one)] = of_one
    return table


def rarity(tags: np.ndarray, num_tags: int) -> np.ndarray:
    """1 / sqrt(f) of the rarest tag of each image, where f is the number of images with it.

    Args:
        tags: (N, K) as `filled` makes them, with a tag in every row.
        num_tags: Number of tags.

    Returns:
        (N,) float64.
    """
    counts = np.bincount(tags[tags >= 0], minlength=num_tags)
    per_tag = np.where(tags >= 0, counts[tags], np.iinfo(np.int64).max)
    return 1 / np.sqrt(per_tag.min(1))
