"""Your own pictures with boxes, annotated as COCO or as Pascal VOC are."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.annotations import Annotated, Annotations, read_coco, read_voc
from datamodules.decode import UNREADABLE, letterbox_scale, read_letterboxed
from datamodules.detection import BoxedImages, DetectionData, Objects, Parts
from datamodules.files import cpus


class BoxedFiles(BoxedImages):
    """Image files, decoded when they are asked for.

    Args:
        folder: What the names of files start from.
        images: The images.
        classes: Names of all classes, in their order.
        image_size: Side of the squares that the images are brought to.
        in_channels: 1 (grey) or 3 (colour).

    Raises:
        ValueError: by indexing, if an image cannot be read or is not of the annotated size.
    """

    def __init__(
        self, folder: Path, images: list[Annotated], classes: list[str], image_size: int, in_channels: int
    ) -> None:
        numbers = {name: i for i, name in enumerate(classes)}
        super().__init__([objects_of(image, numbers, image_size) for image in images])
        self.paths = [folder / image.name for image in images]
        self.sizes = [(image.width, image.height) for image in images]
        self.image_size, self.in_channels = image_size, in_channels

    def image(self, i: int) -> Tensor:
        path = self.paths[i]
        try:
            pixels, size = read_letterboxed(path, self.image_size, self.in_channels)
        except UNREADABLE as error:
            raise ValueError(f"cannot read {path}: {error}; take it out of the annotations") from error
        if size != self.sizes[i]:
            (width, height), (w, h) = size, self.sizes[i]
            raise ValueError(
                f"{path} has {width} x {height} px and its annotation says {w} x {h}: the boxes would be wrong"
            )
        return pixels


def objects_of(image: Annotated, numbers: dict[str, int], image_size: int) -> Objects:
    """The objects of an image in pixels of its square, whose classes have numbers."""
    boxes = torch.tensor(image.boxes, dtype=torch.float32).reshape(-1, 4)
    return Objects(
        boxes * torch.tensor(letterbox_scale(image.width, image.height, image_size)).repeat(2),
        torch.tensor([numbers[cls] for cls in image.classes], dtype=torch.int64),
        torch.tensor(image.ignored, dtype=torch.bool),
    )


class DetectionFolder(DetectionData):
    """Pictures with boxes in one of two layouts.

    COCO: `root/annotations/instances_<part>.json`, or `<part>.json` there, with the pictures in `root/<part>`,
    `root/images/<part>` or `root/images`. Pascal VOC: `root/ImageSets/Main/<part>.txt`, `root/Annotations/*.xml`,
    `root/JPEGImages`.

    A picture is resized until it fits into a square and lies in its upper left corner, on grey; the orientation that a
    camera recorded is not applied. Crowds (COCO) and difficult objects (VOC) are not learned, and in evaluation neither
    found nor missed. Boxes are cut off at the picture's border, those without area left out, and counted; pictures
    without a box to learn are not trained on.

    Args:
        root: The folder.
        train: The part to learn from, such as `train2017` or `trainval`.
        val: The part for scores while training. None: `val`, if there is one; of VOC's, which overlap, only where no
            image of it is learned from.
        test: The part for the scores at the end. None: `test` if there is one, otherwise that of `val`.
        image_size: Side of the squares, in pixels.
        in_channels: 1 (grey) or 3 (colour).
        num_workers: Processes per loader that read pictures; by default one per CPU, 8 at most.
        kwargs: Mirroring, batches and order, see DetectionData.

    Raises:
        FileNotFoundError: there is no such folder or part.
        ValueError: an annotation is not as it should be, a part has other classes than the training part, or one that
            is to be scored has images of it.
    """

    def __init__(
        self,
        root: str,
        train: str = "train",
        val: str | None = None,
        test: str | None = None,
        image_size: int = 512,
        in_channels: int = 3,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 or 3 for DetectionFolder, got {in_channels}")
        self.root, self.train, self.val, self.test = Path(root).expanduser(), train, val, test
        known = parts_in(self.root)
        named: dict[str, str] = {"train": train}
        for role, given in (("val", val), ("test", test)):
            if given is not None or role in known:
                named[role] = given or role
        for name in named.values():
            if name not in known:
                raise FileNotFoundError(f"{self.root.absolute()} has no part {name}; it has {', '.join(sorted(known))}")
        read = {name: read_part(self.root, name) for name in dict.fromkeys(named.values())}
        if is_voc(self.root):
            learned = {image.name for image in read[train].images}
            for role, given in (("val", val), ("test", test)):
                scored = read[named[role]].images if role in named else []
                if not learned.isdisjoint(image.name for image in scored):
                    if given is not None:
                        raise ValueError(f"part {given} has images of part {train}, which is to be learned from")
                    del named[role]
        named.setdefault("test", named.get("val", ""))
        class_names = read[train].classes
        for name, annotations in read.items():
            if differ := sorted(set(annotations.classes) - set(class_names)):
                raise ValueError(
                    f"part {name} has classes that part {train}, which is to be learned from, has not: "
                    f"{', '.join(differ[:5])}{' ...' if len(differ) > 5 else ''}"
                )
        num_workers = min(8, cpus()) if num_workers is None else num_workers
        super().__init__(class_names, image_size, in_channels, num_workers=num_workers, **kwargs)
        self._read, self._named = read, named

    def parts(self) -> Parts:
        sets = {}
        for name, annotations in self._read.items():
            images = annotations.images
            if name == self.train:
                images = [image for image in images if not all(image.ignored)]
                if not images:
                    raise ValueError(f"part {name} of {self.root.absolute()} has no box to learn")
            folder = image_folder(self.root, name)
            sets[name] = BoxedFiles(folder, images, self.class_names, self.image_size, self.in_channels)
        return Parts(sets[self.train], sets.get(self._named.get("val", "")), sets.get(self._named["test"]))


def is_voc(root: Path) -> bool:
    return (root / "ImageSets" / "Main").is_dir()


def parts_in(root: Path) -> dict[str, Path]:
    """The parts of a data set by name, with the file that lists or annotates each.

    Raises:
        FileNotFoundError: there is no such folder, or it has neither of the layouts.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root.absolute()}: give --data.root the folder of your images")
    if is_voc(root):
        return {path.stem: path for path in (root / "ImageSets" / "Main").glob("*.txt")}
    found = {path.stem.removeprefix("instances_"): path for path in (root / "annotations").glob("*.json")}
    if not found:
        raise FileNotFoundError(
            f"{root.absolute()} has neither annotations/*.json (COCO) nor ImageSets/Main/*.txt (VOC)"
        )
    return found


def read_part(root: Path, name: str) -> Annotations:
    return read_voc(root, name) if is_voc(root) else read_coco(parts_in(root)[name])


def image_folder(root: Path, name: str) -> Path:
    """Where the pictures of a part are.

    Raises:
        FileNotFoundError: in none of the places.
    """
    places = ["JPEGImages"] if is_voc(root) else [name, f"images/{name}", "images"]
    for place in places:
        if (root / place).is_dir():
            return root / place
    raise FileNotFoundError(f"the pictures of part {name} are in none of {', '.join(places)} of {root.absolute()}")
