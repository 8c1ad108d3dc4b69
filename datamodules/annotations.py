"""Files that annotate images with boxes: COCO's JSON and Pascal VOC's XML.

Lin et al., Microsoft COCO: Common Objects in Context, 2014. https://arxiv.org/abs/1405.0312
Everingham et al., The Pascal Visual Object Classes Challenge, 2010. https://doi.org/10.1007/s11263-009-0275-4
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from lightning.pytorch.utilities import rank_zero_warn


class Annotated(NamedTuple):
    """An image and its objects.

    Args:
        name: Of its file.
        width: In pixels.
        height: In pixels.
        boxes: x1, y1, x2, y2 of each object in pixels, with x1 = 0 at the left edge of the first column.
        classes: Their names.
        ignored: Whether each is not to be learned: a crowd in COCO, difficult in VOC.
    """

    name: str
    width: int
    height: int
    boxes: list[tuple[float, float, float, float]]
    classes: list[str]
    ignored: list[bool]


class Annotations(NamedTuple):
    """What a file or a list of files says.

    Args:
        images: In their order.
        classes: Names of the classes, in their order.
    """

    images: list[Annotated]
    classes: list[str]


def read_coco(path: Path) -> Annotations:
    """The images, annotations and categories of a file of COCO's layout, classes in the order of their ids.

    Raises:
        ValueError: the file is no such JSON, or an entry is not as it should be.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise ValueError(f"{path} is not in COCO's layout: it needs the lists {', '.join(parts)}")
    names = {
        entry["id"]: entry["name"]
        for entry in checked(path, "categories", content["categories"], {"id": int, "name": str})
    }
    if len(set(names.values())) < len(names):
        raise ValueError(f"{path}: two categories have the same name")
    images: dict[int, Annotated] = {}
    fields = {"id": int, "file_name": str, "width": int, "height": int}
    for entry in checked(path, "images", content["images"], fields):
        check_size(path, entry["width"], entry["height"])
        images[entry["id"]] = Annotated(entry["file_name"], entry["width"], entry["height"], [], [], [])
    empty = Empty(path)
    fields = {"image_id": int, "category_id": int, "bbox": list}
    for number, entry in enumerate(checked(path, "annotations", content["annotations"], fields)):
        where = f"annotations[{number}]"
        for key, known in (("image_id", images), ("category_id", names)):
            if entry[key] not in known:
                raise ValueError(f"{path}: {where} has the {key} {entry[key]}, which is not in the file")
        box = [value for value in entry["bbox"] if isinstance(value, int | float) and math.isfinite(value)]
        if len(box) != 4 or len(entry["bbox"]) != 4:
            raise ValueError(f"{path}: the bbox of {where} must be four numbers x, y, width, height: {entry['bbox']}")
        x, y, w, h = box
        add(images[entry["image_id"]], (x, y, x + w, y + h), names[entry["category_id"]], bool(entry.get("iscrowd", 0)))
        empty.check(images[entry["image_id"]], where)
    empty.report()
    return Annotations(list(images.values()), [names[key] for key in sorted(names)])


def checked(path: Path, part: str, entries: list[Any], fields: dict[str, type]) -> Iterable[dict[str, Any]]:
    """The entries of a list, each a dict that has the fields with values of these types.

    Raises:
        ValueError: one has not.
    """
    for number, entry in enumerate(entries):
        for name, kind in fields.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
                raise ValueError(f"{path}: {part}[{number}] needs {name}, a {kind.__name__}: {str(entry)[:80]}")
        yield entry


def read_voc(root: Path, part: str) -> Annotations:
    """The images that `ImageSets/Main/<part>.txt` lists, as `Annotations/<name>.xml` describes them; classes in
    the order of the alphabet. In VOC's files the first column of pixels has number 1.

    Raises:
        ValueError: a file is no such XML, or an entry is not as it should be.
        FileNotFoundError: an image has no XML.
    """
    listed = root / "ImageSets" / "Main" / f"{part}.txt"
    names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    images, empty = [], Empty(listed)
    for name in names:
        path = root / "Annotations" / f"{name}.xml"
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}, and {listed} lists {name}")
        images.append(read_voc_image(path, empty))
    empty.report()
    return Annotations(images, sorted({cls for image in images for cls in image.classes}))


def read_voc_image(path: Path, empty: "Empty") -> Annotated:
    content = path.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # which can make a small file grow without bounds
        raise ValueError(f"{path} declares a document type, and VOC's files have none: remove it")
    try:
        tree = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no XML: {error}") from None
    width, height = (int(number(path, tree, f"size/{side}")) for side in ("width", "height"))
    check_size(path, width, height)
    image = Annotated(tree.findtext("filename") or f"{path.stem}.jpg", width, height, [], [], [])
    for place, thing in enumerate(tree.findall("object")):
        where = f"object {place + 1}"
        cls = (thing.findtext("name") or "").strip()
        if not cls:
            raise ValueError(f"{path}: {where} has no name")
        x1, y1, x2, y2 = (number(path, thing, f"bndbox/{key}", where) for key in ("xmin", "ymin", "xmax", "ymax"))
        difficult = (thing.findtext("difficult") or "0").strip() == "1"
        add(image, (x1 - 1, y1 - 1, x2, y2), cls, difficult)
        empty.check(image, f"{where} of {path.name}")
    return image


def check_size(path: Path, width: int, height: int) -> None:
    """
    Raises:
        ValueError: an image has no size.
    """
    if width < 1 or height < 1:
        raise ValueError(f"{path}: an image of {width} x {height} px: write down the size that it has")


def number(path: Path, tree: ElementTree.Element, tag: str, where: str = "it") -> float:
    """
    Raises:
        ValueError: there is no such tag, or no finite number in it.
    """
    text = tree.findtext(tag)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}: {where} needs a number in <{tag.replace('/', '><')}>, and has {text!r}")
    return value


def add(image: Annotated, box: tuple[float, float, float, float], cls: str, ignored: bool) -> None:
    """Another object; the part of its box outside of the image is cut off."""
    x1, y1, x2, y2 = box
    w, h = image.width, image.height
    image.boxes.append((min(max(x1, 0), w), min(max(y1, 0), h), min(max(x2, 0), w), min(max(y2, 0), h)))
    image.classes.append(cls)
    image.ignored.append(ignored)


class Empty:
    """Leaves out boxes without area in their image, counts them, and says so once.

    Args:
        path: Of the file that has them.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.first = path, 0, ""

    def check(self, image: Annotated, where: str) -> None:
        """Look at the last object of an image."""
        x1, y1, x2, y2 = image.boxes[-1]
        if x2 - x1 >= 1e-3 and y2 - y1 >= 1e-3:
            return
        for column in (image.boxes, image.classes, image.ignored):
            column.pop()
        self.count += 1
        self.first = self.first or where

    def report(self) -> None:
        if self.count:
            rank_zero_warn(
                f"{self.path}: {self.count} box(es) without area in their image are left out, the first of them "
                f"{self.first}"
            )
