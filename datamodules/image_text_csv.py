"""Tables of image files and their captions, as open_clip reads them."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import FileImages
from datamodules.image_text import ImageTextData
from datamodules.images import Splits
from datamodules.sets import Images, Part, whole
from datamodules.table import read_rows

COLUMNS = ("filepath", "title")


class Tables(ImageTextData, FileImages):
    """Images and captions of some parts listed in tables, with the columns `filepath` and `title`.

    Args:
        folder: What the names of files start from.
        tables: The table of each part, or None.
        kwargs: Captions and how files are read, see ImageTextData and FileImages.

    Raises:
        FileNotFoundError: there is no such table, or an image that it lists.
        ValueError: a table lacks a column, has no line, or an empty caption.
    """

    def __init__(self, folder: Path, tables: dict[str, str | None], **kwargs: Any) -> None:
        if kwargs.get("val_size"):
            raise ValueError("val_size holds out labelled images, which a table does not have: give val, a table")
        given = {part: path for part, path in tables.items() if path is not None}
        self.titles = {part: read_table(path, folder) for part, path in given.items()}
        super().__init__(
            folder=folder, parts={part: list(of) for part, of in self.titles.items()}, class_names=[], **kwargs
        )
        self._sets: dict[str, Images] = {}

    def sets(self) -> tuple[Images | None, Images | None]:
        """The images of validation and test; where one is missing the other serves as both."""
        self._sets = {part: self._images(part) for part in self.files}
        val = self._sets.get("val", self._sets.get("test"))
        return val, self._sets.get("test", val)

    def captions(self, images: Images) -> list[list[str]]:
        images = whole(images)
        part = next(part for part, of in self._sets.items() if of is images)
        return [self.titles[part][name] for name in images.names or ()]


class ImageTextCSV(Tables):
    """Images and captions listed in a table with the columns `filepath` and `title` (open_clip's), one caption a line.

    Several lines with one file are several captions of it. Files are named from the folder of `train`. A table is
    separated by tabs where its name ends in .tsv, else by commas. Without `val` and `test`, evaluation is off; where
    one of them is missing the other serves as both.

    Args:
        train: The table of training images.
        val: A table of held-out images for validation.
        test: A table of held-out images for the test.
        kwargs: Captions and how files are read, see ImageTextData and FileImages.

    Raises:
        FileNotFoundError: there is no such table, or an image that it lists.
        ValueError: a table lacks a column, has no line, or an empty caption.
    """

    def __init__(self, train: str, val: str | None = None, test: str | None = None, **kwargs: Any) -> None:
        self.train, self.val, self.test = train, val, test
        folder = Path(train).expanduser().parent
        super().__init__(folder=folder, tables={"train": train, "val": val, "test": test}, **kwargs)

    def splits(self) -> Splits:
        val, test = self.sets()
        train = self._sets["train"]
        bank = None if val is None else evenly(train, len(val))  # nothing is learned from it: there are no labels
        return Splits(train, bank, val, test, predict=train if test is None else test)


def evenly(images: Images, n: int) -> Images:
    """At most n images, at even distances."""
    return Part(images, np.linspace(0, len(images), min(n, len(images)), endpoint=False).astype(np.int64))


def read_table(path: str | Path, folder: Path) -> dict[str, list[str]]:
    """The captions of each file that a table lists, in its order.

    Raises:
        FileNotFoundError, ValueError: see `read_rows`, or a caption is empty.
    """
    titles: dict[str, list[str]] = {}
    for line, row in read_rows(path, folder, COLUMNS):
        name, title = (row[column] for column in COLUMNS)
        if not title.strip():
            raise ValueError(f"{path}, line {line}: the caption of {name!r} is empty: fill it in, or remove the line")
        titles.setdefault(name, []).append(title)
    return titles
