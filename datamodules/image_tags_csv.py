"""Tables of image files and their tags, or the words of their captions."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import FileImages
from datamodules.images import Splits
from datamodules.sets import Images, Part
from datamodules.table import read_rows
from datamodules.tags import TaggedData

AROUND = "#.:!?()[]\"'"  # what is no part of a word at its ends


class ImageTagsCSV(TaggedData, FileImages):
    """Images listed in a table with the columns `filepath` and `tags`, and `label` where the class of some is known.

    Tags are divided by spaces, commas or semicolons; capitals, a # and punctuation around a word do not count. Several
    lines with one file give it the tags of all. Words of captions are tags too: `--data.column title` reads the table
    of `ImageTextCSV`. Learned are those tags that stand on many enough of the training images and on few enough.

    Files are named from the folder of `train`. A table is separated by tabs where its name ends in .tsv, else by
    commas. The evaluations learn from the labelled images of `train` and ask about those of `val` and `test`; where one
    of these is missing the other serves as both, without either evaluation is off unless `val_size` is given.

    Args:
        train: The table of training images.
        val: A table with the columns `filepath` and `label` of held-out images for validation.
        test: Another one for the test.
        column: The column with the tags.
        min_count: Fewest training images of a tag.
        max_share: Largest share of the training images that a tag stands on, in (0, 1]; above it are words such as "a".
        kwargs: How files are read, see FileImages.

    Raises:
        FileNotFoundError: there is no such table, or an image that it lists.
        ValueError: a table lacks a column or has no line, an image has two labels, the labels of held-out images are
            not among those of training, a number is out of its range, or fewer than two tags are left.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        column: str = "tags",
        min_count: int = 5,
        max_share: float = 0.5,
        **kwargs: Any,
    ) -> None:
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        if not 0 < max_share <= 1:
            raise ValueError(f"max_share must lie in (0, 1], got {max_share}")
        self.train, self.val, self.test, self.column = train, val, test, column
        self.min_count, self.max_share = min_count, max_share
        folder = Path(train).expanduser().parent
        self.words, self.class_of = read_tags(train, folder, column)
        self.tag_names = vocabulary(self.words.values(), min_count, max_share)
        if len(self.tag_names) < 2:
            raise ValueError(
                f"{len(self.tag_names)} tags stand on at least {min_count} and at most {max_share:g} of the "
                f"{len(self.words)} images of {train}, and 2 are needed: change min_count or max_share"
            )
        class_names = sorted(set(self.class_of.values()))
        parts = {"train": list(self.words)}
        for part, path in {"val": val, "test": test}.items():
            if path is None:
                continue
            labels = read_labels(path, folder)
            if others := sorted(set(labels.values()) - set(class_names)):
                raise ValueError(
                    f"{path} has images with the label {others[0]!r}, and no image of {train} has it: label some "
                    "there, in its column label"
                )
            if both := sorted(labels.keys() & self.words.keys()):
                raise ValueError(f"{path} lists {both[0]!r}, which {train} lists too: take it out of one of them")
            parts[part] = list(labels)
            self.class_of |= labels
        super().__init__(folder=folder, parts=parts, class_names=class_names, **kwargs)

    def splits(self) -> Splits:
        sets = {part: self._images(part) for part in self.files}
        train = sets["train"]
        labelled = np.flatnonzero(train.labels >= 0)
        bank = Part(train, labelled) if len(labelled) else None
        val = sets.get("val", sets.get("test"))
        test = sets.get("test", val)
        return Splits(train, bank, val, test, predict=train if test is None else test)

    def _labels(self, names: list[str]) -> np.ndarray:
        number = {name: i for i, name in enumerate(self.class_names)}
        return np.asarray([number[self.class_of[name]] if name in self.class_of else -1 for name in names])

    def tags(self, images: Images) -> list[list[int]]:
        number = {tag: i for i, tag in enumerate(self.tag_names)}
        names = images.names or []
        return [[number[word] for word in self.words[name] if word in number] for name in names]


def vocabulary(words: Iterable[list[str]], min_count: int, max_share: float) -> list[str]:
    """The words that at least `min_count` images have and at most the share `max_share` of them; frequent ones first.

    Args:
        words: Those of each image, none twice.
        min_count: Number of images.
        max_share: Of all images.
    """
    words = list(words)
    counts = Counter(chain.from_iterable(words))
    kept = [word for word, count in counts.items() if min_count <= count <= max_share * len(words)]
    return sorted(kept, key=lambda word: (-counts[word], word))


def split_words(text: str) -> list[str]:
    """Such as ["new", "sea-side"] of "#New, (sea-side)!"."""
    found = (part.strip(AROUND).lower() for part in re.split(r"[\s,;]+", text))
    return [word for word in found if word]


def read_tags(path: str, folder: Path, column: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The words of each file that a table lists, none twice, in its order; and the labels of those that have one.

    Raises:
        FileNotFoundError, ValueError: see `read_rows`, or a file has two labels.
    """
    words: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    for line, row in read_rows(path, folder, ("filepath", column)):
        name = row["filepath"]
        words[name] = list(dict.fromkeys([*words.get(name, []), *split_words(row[column])]))
        if label := row.get("label", "").strip():
            set_label(labels, name, label, f"{path}, line {line}")
    return words, labels


def read_labels(path: str, folder: Path) -> dict[str, str]:
    """The label of each file that a table lists.

    Raises:
        FileNotFoundError, ValueError: see `read_rows`, or a file has two labels or none.
    """
    labels: dict[str, str] = {}
    for line, row in read_rows(path, folder, ("filepath", "label")):
        place, label = f"{path}, line {line}", row["label"].strip()
        if not label:
            raise ValueError(f"{place}: the label of {row['filepath']!r} is empty: fill it in, or remove the line")
        set_label(labels, row["filepath"], label, place)
    return labels


def set_label(labels: dict[str, str], name: str, label: str, place: str) -> None:
    if labels.setdefault(name, label) != label:
        raise ValueError(f"{place}: the label of {name!r} is {label!r}, and {labels[name]!r} in an earlier line")
