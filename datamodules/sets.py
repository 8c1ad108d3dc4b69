"""Sets of images that return a whole batch for a list of indices: arrays, files, parts of another set."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batch import ImageBatch
from datamodules.decode import UNREADABLE, read_image


class Images(Dataset[ImageBatch]):
    """A set of N images: `images[[i, j]]` is the batch of the two.

    Args:
        labels: (N,) int64 class numbers, -1 where there is none.
        names: N names, such as file paths, or None.
    """

    def __init__(self, labels: np.ndarray, names: list[str] | None = None) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.names = names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Sequence[int]) -> ImageBatch:
        raise NotImplementedError

    def _batch(self, image: Tensor, index: np.ndarray) -> ImageBatch:
        return ImageBatch(image, torch.from_numpy(self.labels[index]), torch.from_numpy(index))


class ImageArray(Images):
    """Images in memory or in a memory map.

    Args:
        images: (N, C, S, S) uint8.
        labels: (N,) int64 class numbers, -1 where there is none.
        names: N names, such as file paths, or None.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, names: list[str] | None = None) -> None:
        super().__init__(labels, names)
        self.images = images

    def __getitem__(self, indices: Sequence[int]) -> ImageBatch:
        index = np.asarray(indices, dtype=np.int64)
        return self._batch(torch.from_numpy(np.ascontiguousarray(self.images[index])), index)


class ImageFiles(Images):
    """Image files, decoded when they are asked for.

    Args:
        root: The folder that the names start from.
        names: N paths of files.
        labels: (N,) int64 class numbers, -1 where there is none.
        store_size: Side of the squares that the files are brought to, in pixels.
        in_channels: 1 (grey) or 3 (colour).
        skip_unreadable: Put the next readable image of the set in the place of one that cannot be read
            (batches keep their size), and mark it in `unreadable`.

    Raises:
        ValueError: by indexing, if an image cannot be read and `skip_unreadable` is off; if none can be read.
    """

    names: list[str]

    def __init__(
        self,
        root: Path,
        names: list[str],
        labels: np.ndarray,
        store_size: int,
        in_channels: int,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(labels, names)
        self.root = root
        self.store_size = store_size
        self.in_channels = in_channels
        self.skip_unreadable = skip_unreadable
        # workers mark here what the main process counts
        self.unreadable = torch.zeros(len(names), dtype=torch.bool).share_memory_()

    def read(self, i: int) -> np.ndarray | None:
        """File i as (C, store_size, store_size) uint8; None if it cannot be read and may be skipped."""
        path = self.root / self.names[i]
        try:
            return read_image(path, self.store_size, self.in_channels)
        except UNREADABLE as error:
            if not self.skip_unreadable:
                raise ValueError(
                    f"cannot read {path}: {error}; remove the file, or go on without such files with "
                    "--data.skip_unreadable true"
                ) from error
            return None

    def _next_readable(self, i: int) -> tuple[np.ndarray, int]:
        for j in chain(range(i, len(self)), range(i)):
            if not self.unreadable[j]:
                pixels = self.read(j)
                if pixels is not None:
                    return pixels, j
                self.unreadable[j] = True
        raise ValueError(f"none of the {len(self)} images under {self.root} can be read")

    def __getitem__(self, indices: Sequence[int]) -> ImageBatch:
        image = np.empty((len(indices), self.in_channels, self.store_size, self.store_size), dtype=np.uint8)
        index = np.empty(len(indices), dtype=np.int64)
        for row, i in enumerate(indices):
            image[row], index[row] = self._next_readable(i)
        return self._batch(torch.from_numpy(image), index)


class Part(Images):
    """Some images of a set; a batch's `index` keeps their places in that set.

    Args:
        whole: The set.
        rows: (n,) int64 places in it.
    """

    def __init__(self, whole: Images, rows: np.ndarray) -> None:
        names = whole.names
        super().__init__(whole.labels[rows], None if names is None else [names[i] for i in rows])
        self.whole = whole
        self.rows = np.asarray(rows, dtype=np.int64)
        self.places = places(whole)[self.rows]  # in the set that is no part

    def __getitem__(self, indices: Sequence[int]) -> ImageBatch:
        place = np.asarray(indices, dtype=np.int64)
        batch = self.whole[self.rows[place].tolist()]
        for _ in range(len(self)):  # an unreadable image's stand-in is of the part, too
            found = batch.index.numpy()
            outside = (found != self.places[place]) & ~np.isin(found, self.places)
            if not outside.any():
                return batch
            place = np.where(outside, (place + 1) % len(self), place)
            batch = self.whole[self.rows[place].tolist()]
        raise ValueError(f"none of the {len(self)} images of a part can be read")


class WithUnlabelled(Images):
    """Labelled images, and behind them further ones whose labels are hidden.

    An index may be larger than there are images: it counts them again, and is kept in the batch.

    Args:
        labelled: The first rows.
        pool: The rows behind them; every label becomes -1.
    """

    def __init__(self, labelled: Images, pool: Images) -> None:
        super().__init__(np.concatenate([labelled.labels, np.full(len(pool), -1)]))
        self.labelled, self.pool = labelled, pool

    def __getitem__(self, indices: Sequence[int]) -> ImageBatch:
        index = np.asarray(indices, dtype=np.int64)
        place = index % len(self)
        known = place < len(self.labelled)
        if not (known[:-1] >= known[1:]).all():
            raise ValueError("a batch has its labelled images first")
        labelled = self.labelled[place[known].tolist()]
        pool = self.pool[(place[~known] - len(self.labelled)).tolist()]
        label = torch.cat([labelled.label, torch.full_like(pool.label, -1)])
        return ImageBatch(torch.cat([labelled.image, pool.image]), label, torch.from_numpy(index))


def whole(images: Images) -> Images:
    """The set that a part is of, or a part of a part: a batch's `index` counts in it."""
    while isinstance(images, Part):
        images = images.whole
    return images


def places(images: Images) -> np.ndarray:
    """(N,) int64, where the images of a set lie in the whole one."""
    return images.places if isinstance(images, Part) else np.arange(len(images))


def balanced_rows(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Rows of `n` labelled images, drawn by `seed` with as equal numbers per class as the set allows.

    Args:
        labels: (N,) class numbers, -1 where there is none.
        n: How many rows.
        seed: Decides which.

    Returns:
        (n,) int64 rows in rising order.

    Raises:
        ValueError: if fewer than `n` images are labelled.
    """
    if n > (labelled := int((labels >= 0).sum())):
        raise ValueError(f"{n} images asked for, but only {labelled} have a label: ask for fewer")
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.flatnonzero(labels >= 0))
    place = np.empty(len(order), dtype=np.int64)  # how many of its class come before each
    for label in np.unique(labels[order]):
        of_class = labels[order] == label
        place[of_class] = np.arange(of_class.sum())
    return np.sort(order[np.argsort(place, kind="stable")[:n]])
