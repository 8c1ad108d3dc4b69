"""Images in files: what folders and lists of files share."""

import hashlib
import os
from abc import ABC
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.cache import cached
from datamodules.images import ImageData
from datamodules.sets import ImageFiles, Images


class FileImages(ImageData, ABC):
    """Image files, decoded in every epoch or once.

    Args:
        folder: What the names of files start from.
        parts: Names of the files of each part.
        class_names: Names of the classes; empty for unlabelled images.
        image_size: Side of the views, in pixels.
        store_size: Side of the squares that the files are brought to before the views are cut from them; by
            default image_size if that is at most 64, otherwise image_size * 256 / 224.
        in_channels: 1 (grey) or 3 (colour).
        cache: Decode all files once into an uncompressed copy (in_channels * store_size**2 bytes an image),
            which is used until the files change.
        cache_dir: Where to keep that copy; by default `.ssl_lightning_cache` in the folder.
        skip_unreadable: Go on without files that cannot be read, and say how many: with `cache` they are left
            out, otherwise the next file stands in for each, in evaluation too.
        num_workers: Processes per loader that read images; by default 0 with `cache`, otherwise one per CPU,
            8 at most.
    """

    def __init__(
        self,
        folder: Path,
        parts: dict[str, list[str]],
        class_names: list[str],
        image_size: int = 224,
        store_size: int | None = None,
        in_channels: int = 3,
        cache: bool = False,
        cache_dir: str | None = None,
        skip_unreadable: bool = False,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 or 3 for {type(self).__name__}, got {in_channels}")
        if store_size is None:
            store_size = image_size if image_size <= 64 else round(image_size * 256 / 224)
        if store_size < image_size:
            raise ValueError(f"store_size must be at least image_size ({image_size}), got {store_size}")
        if num_workers is None:
            num_workers = 0 if cache else min(8, cpus())
        super().__init__(
            image_size=image_size,
            in_channels=in_channels,
            class_names=class_names,
            num_workers=num_workers,
            **kwargs,
        )
        self.folder, self.files = folder, parts
        self.store_size = store_size
        self.cache = cache
        self.skip_unreadable = skip_unreadable
        self.cache_dir = folder / ".ssl_lightning_cache"
        if cache_dir is not None:  # which several data sets may share
            where = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
            self.cache_dir = Path(cache_dir).expanduser() / f"{folder.resolve().name}-{where}"

    def prepare_data(self) -> None:
        if self.cache:
            for split in self.files:
                self._cached(split)

    def _images(self, split: str) -> Images:
        if not self.cache:
            return self._decoded(split)
        images, unreadable = self._cached(split)
        if unreadable:
            rank_zero_warn(
                f"{len(unreadable)} of {len(self.files[split])} images could not be read and are left out, "
                f"such as {self.folder / unreadable[0]}"
            )
        return images

    def _cached(self, split: str) -> tuple[Images, list[str]]:
        name = f"{split}-{self.store_size}px-{self.in_channels}ch"
        return cached(self._decoded(split), self.cache_dir, name, self.num_workers or cpus())

    def _labels(self, names: list[str]) -> np.ndarray:
        return np.full(len(names), -1)

    def _decoded(self, split: str) -> ImageFiles:
        names = self.files[split]
        labels = self._labels(names)
        return ImageFiles(self.folder, names, labels, self.store_size, self.in_channels, self.skip_unreadable)


def cpus() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
