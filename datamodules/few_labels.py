"""Few labels: which of the labelled training images keep theirs, and the record by which another run takes the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.sets import Images, Part, balanced_rows, places, whole


def labelled_rows(
    labels: np.ndarray, class_names: list[str], seed: int, fraction: float = 1.0, per_class: int | None = None
) -> np.ndarray:
    """Rows of the labelled images whose labels are used, drawn by `seed` with as equal numbers per class as there are.

    Args:
        labels: (N,) class numbers, -1 where there is none.
        class_names: Names of the classes.
        seed: Decides which.
        fraction: Their share of the labelled images, in (0, 1]; every class has one at least.
        per_class: Their number in each class, in place of the share.

    Returns:
        (n,) int64 rows in rising order. Of two draws with one seed the smaller is part of the larger.

    Raises:
        ValueError: a class has fewer images than are asked for.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(class_names))
    asked, fewest = per_class or 1, int(counts.argmin())
    if (there := int(counts[fewest])) < asked:
        way_out = f"set labels_per_class to at most {there}" if there else "hold out (val_size) fewer"
        raise ValueError(
            f"class {class_names[fewest]} has {there} labelled training images where {asked} are asked for: {way_out}"
        )
    n = max(len(counts), round(fraction * counts.sum())) if per_class is None else per_class * len(counts)
    return balanced_rows(labels, n, seed)


def record(labelled: Images) -> dict[str, Any]:
    """What labelled_indices.json says of a part of a training set: how many images the set has (`images`), and of each
    image of the part its place in the set (`indices`), its class number (`labels`) and, where the set has names, its
    name (`names`)."""
    named = {} if labelled.names is None else {"names": labelled.names}
    indices = places(labelled).tolist()
    return {"images": len(whole(labelled)), "indices": indices, "labels": labelled.labels.tolist(), **named}


def recorded_rows(path: str, images: Images) -> np.ndarray:
    """Rows of a set that a file says.

    Args:
        path: What another run has recorded; of a file written by hand `indices` are enough.
        images: The labelled training images.

    Returns:
        (n,) int64 rows in rising order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another form, or of another set.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no file {path}: a run with few labels keeps labelled_indices.json in its folder"
        )
    try:
        says = json.loads(Path(path).read_text())
        wanted = np.array(says["indices"], dtype=np.int64)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'{path} is not JSON of the form {{"indices": [0, 7, ...]}}') from error
    if wanted.tolist() != says["indices"] or len(wanted) == 0 or (np.diff(wanted) <= 0).any():
        raise ValueError(f"the indices of {path} must be whole numbers in rising order, one or more")
    rows = np.flatnonzero(np.isin(places(images), wanted) & (images.labels >= 0))
    ours = record(Part(images, rows))
    if absent := np.setdiff1d(wanted, ours["indices"]).tolist():
        raise ValueError(
            f"image {absent[0]} of {path} is not among the {len(images)} labelled training images: take the data it "
            "was made with, and hold out (val_size) the same images by the same seed"
        )
    if differ := [key for key, value in ours.items() if says.get(key, value) != value]:
        raise ValueError(f"{path} was made with other data: their {' and '.join(differ)} are not these")
    return rows
