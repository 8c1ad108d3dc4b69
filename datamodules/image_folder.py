"""Folders of image files, labelled by folders of classes or not labelled."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.cache import cached
from datamodules.decode import readable_extensions
from datamodules.images import ImageData, Splits
from datamodules.sets import ImageFiles, Images

_SPLITS = ("train", "val", "test")
_HELD_OUT = ("val", "test")


class ImageFolder(ImageData):
    """Image files of any kind that Pillow reads, in one of two layouts. Hidden files are ignored.

    Labelled: `root/train/<class>/...`, and `root/val/<class>/...`, `root/test/<class>/...` or both; where one
    of them is missing the other serves as both. Without either, evaluation is off unless `val_size` is given.

    Unlabelled: files at any depth below `root`, or below `root/train`. Evaluation is off, `predict` describes
    the files of `root/test` if there are any, otherwise all.

    Args:
        root: The folder.
        image_size: Side of the views, in pixels.
        store_size: Side of the squares that the files are brought to before the views are cut from them; by
            default image_size if that is at most 64, otherwise image_size * 256 / 224.
        in_channels: 1 (grey) or 3 (colour).
        cache: Decode all files once into an uncompressed copy (in_channels * store_size**2 bytes an image),
            which is used until the files change.
        cache_dir: Where to keep that copy; by default `.ssl_lightning_cache` in root.
        skip_unreadable: Go on without files that cannot be read, and say how many: with `cache` they are left
            out, otherwise the next file stands in for each, in evaluation too.
        num_workers: Processes per loader that read images; by default 0 with `cache`, otherwise one per CPU,
            8 at most.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no image.
        ValueError: if the folders of classes differ between train, val and test, or only some of these have
            any.
    """

    def __init__(
        self,
        root: str,
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
            raise ValueError(f"in_channels must be 1 or 3 for ImageFolder, got {in_channels}")
        if store_size is None:
            store_size = image_size if image_size <= 64 else round(image_size * 256 / 224)
        if store_size < image_size:
            raise ValueError(f"store_size must be at least image_size ({image_size}), got {store_size}")
        self.root = Path(root).expanduser()
        self.files, classes = _list(self.root)
        if num_workers is None:
            num_workers = 0 if cache else min(8, cpus())
        super().__init__(
            image_size=image_size,
            in_channels=in_channels,
            class_names=classes,
            num_workers=num_workers,
            **kwargs,
        )
        self.store_size = store_size
        self.cache = cache
        self.skip_unreadable = skip_unreadable
        self.cache_dir = self.root / ".ssl_lightning_cache"
        if cache_dir is not None:  # which several data sets may share
            where = hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:8]
            self.cache_dir = Path(cache_dir).expanduser() / f"{self.root.resolve().name}-{where}"

    def prepare_data(self) -> None:
        if self.cache:
            for split in self.files:
                self._cached(split)

    def splits(self) -> Splits:
        sets = {split: self._images(split) for split in self.files}
        train = sets["train"]
        described = sets.get("test", train)
        if not self.class_names:
            return Splits(train, None, None, None, described)
        val = sets.get("val", sets.get("test"))
        test = sets.get("test", val)
        return Splits(train, bank=train, val=val, test=test, predict=train if test is None else test)

    def _images(self, split: str) -> Images:
        if not self.cache:
            return self._decoded(split)
        images, unreadable = self._cached(split)
        if unreadable:
            rank_zero_warn(
                f"{len(unreadable)} of {len(self.files[split])} images could not be read and are left out, "
                f"such as {self.root / unreadable[0]}"
            )
        return images

    def _cached(self, split: str) -> tuple[Images, list[str]]:
        name = f"{split}-{self.store_size}px-{self.in_channels}ch"
        return cached(self._decoded(split), self.cache_dir, name, self.num_workers or cpus())

    def _decoded(self, split: str) -> ImageFiles:
        names = self.files[split]
        labels = np.full(len(names), -1)
        if self.class_names:
            number = {name: i for i, name in enumerate(self.class_names)}
            labels = np.asarray([number[name.split("/")[1]] for name in names])
        return ImageFiles(self.root, names, labels, self.store_size, self.in_channels, self.skip_unreadable)


def cpus() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _list(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The files of each split, as paths from root in sorted order, and the classes."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root.absolute()}: give --data.root the folder of your images")
    found = [split for split in _SPLITS if (root / split).is_dir()]
    if not found:
        files = _images_below(root, root)
        if not files:
            raise FileNotFoundError(f"there is no image in {root.absolute()} or below it")
        return {"train": files}, []
    if "train" not in found:
        raise FileNotFoundError(f"{root.absolute()} has {' and '.join(found)}, but no folder train")
    splits = {split: _images_below(root / split, root) for split in found}
    for split, files in splits.items():
        if not files:
            raise FileNotFoundError(f"there is no image in {(root / split).absolute()}: add some or remove the folder")
    classes = {split: _classes(root, split, files) for split, files in splits.items()}
    for split in found[1:]:
        if bool(classes[split]) != bool(classes["train"]):
            flat, labelled = (split, "train") if classes["train"] else ("train", split)
            raise ValueError(
                f"{root / labelled} has folders of classes, but {root / flat} does not: sort its images into "
                f"folders named as those of {labelled}, or move it away"
            )
        if differ := sorted(set(classes[split]) ^ set(classes["train"])):
            raise ValueError(
                f"{root / 'train'} and {root / split} must have the same classes, but only one of them has "
                f"images of {', '.join(differ[:5])}{' ...' if len(differ) > 5 else ''}"
            )
    return splits, classes["train"]


def _classes(root: Path, split: str, files: list[str]) -> list[str]:
    """Names of the folders of classes; none if the images lie loose."""
    parts = [name.split("/") for name in files]
    loose = [name for name, part in zip(files, parts, strict=True) if len(part) == 2]
    classes = sorted({part[1] for part in parts if len(part) > 2})
    if loose and classes:
        raise ValueError(
            f"{root / split} holds both folders of classes and loose images, such as {loose[0]}: move these away"
        )
    return classes


def _images_below(folder: Path, root: Path) -> list[str]:
    extensions = readable_extensions()
    files = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(place).relative_to(root).as_posix()
        start = "" if inside == "." else f"{inside}/"
        files += [
            start + name
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions
        ]
    return sorted(files)
