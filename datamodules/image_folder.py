"""Folders of image files, labelled by folders of classes or not labelled."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.decode import readable_extensions
from datamodules.files import FileImages
from datamodules.images import Splits

_SPLITS = ("train", "val", "test")
_HELD_OUT = ("val", "test")


class ImageFolder(FileImages):
    """Image files of any kind that Pillow reads, in one of two layouts. Hidden files are ignored.

    Labelled: `root/train/<class>/...`, and `root/val/<class>/...`, `root/test/<class>/...` or both; where one
    of them is missing the other serves as both. Without either, evaluation is off unless `val_size` is given.

    Unlabelled: files at any depth below `root`, or below `root/train`. Evaluation is off, `predict` describes
    the files of `root/test` if there are any, otherwise all.

    Args:
        root: The folder.
        kwargs: How files are read, see FileImages.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no image.
        ValueError: if the folders of classes differ between train, val and test, or only some of these have
            any.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        folder = Path(root).expanduser()
        files, classes = _list(folder)
        super().__init__(folder=folder, parts=files, class_names=classes, **kwargs)
        self.root = folder

    def splits(self) -> Splits:
        sets = {split: self._images(split) for split in self.files}
        train = sets["train"]
        described = sets.get("test", train)
        if not self.class_names:
            return Splits(train, None, None, None, described)
        val = sets.get("val", sets.get("test"))
        test = sets.get("test", val)
        return Splits(train, bank=train, val=val, test=test, predict=train if test is None else test)

    def _labels(self, names: list[str]) -> np.ndarray:
        if not self.class_names:
            return super()._labels(names)
        number = {name: i for i, name in enumerate(self.class_names)}
        return np.asarray([number[name.split("/")[1]] for name in names])


def _list(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The files of each split, as paths from root in sorted order, and the classes."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root.absolute()}: give --data.root the folder of your images")
    found = [split for split in _SPLITS if (root / split).is_dir()]
    if not found:
        files = images_below(root, root)
        if not files:
            raise FileNotFoundError(f"there is no image in {root.absolute()} or below it")
        return {"train": files}, []
    if "train" not in found:
        raise FileNotFoundError(f"{root.absolute()} has {' and '.join(found)}, but no folder train")
    splits = {split: images_below(root / split, root) for split in found}
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


def images_below(folder: Path, root: Path) -> list[str]:
    """The image files in a folder and below it, hidden ones left out, as paths from root in sorted order."""
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
