"""Images with boxes: digits on photographs, folders as COCO and VOC have them, mirroring."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as T

from datamodules import DetectionBatch, DetectionDigits, DetectionFolder
from datamodules.detection import mirrored
from datamodules.detection_digits import APART, COLUMNS, covered, extent, scene, scenes
from datamodules.moving_digits import photos
from tests.methods.tiny import trainer


def ready(data, stage="fit"):
    data.setup(stage)
    return data


# ---- digits on photographs


def test_a_box_is_the_smallest_around_the_digit():
    alpha = torch.zeros(10, 10)
    alpha[2:5, 3:9] = 1.0
    alpha[7, 7] = 0.25  # too faint
    assert extent(alpha).tolist() == [3, 2, 9, 5]
    image, objects = scene("train", 3, 64)
    first, last = COLUMNS["train"]
    photo = photos()[1][:, :, first:last]
    windows = photo.unfold(1, 64, 1).unfold(2, 64, 1)  # (3, y, x, 64, 64)
    corners = [(windows[:, :, :, y, x] == image[:, y, x, None, None]).all(0) for y in (0, 63) for x in (0, 63)]
    # the corners of this image are free, and say where in the photograph it is
    (place,) = torch.nonzero(torch.stack(corners).all(0))
    changed = (windows[:, place[0], place[1]] - image).abs().amax(0) > 0
    for x1, y1, x2, y2 in objects.box.int().tolist():
        inside = changed[y1:y2, x1:x2]
        assert inside.float().mean() > 0.7
        assert all(line.any() for line in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        changed[max(0, y1 - 14) : y2 + 14, max(0, x1 - 14) : x2 + 14] = False  # its edge and faint ink
    assert not changed.any()


def test_boxes_lie_inside_and_hardly_cover_each_other():
    for objects in scenes("val", 40, 48).objects:
        assert 1 <= len(objects.label) <= 5
        assert (objects.box >= 0).all()
        assert (objects.box <= 48).all()
        assert (objects.box[:, 2:] > objects.box[:, :2]).all()
        for i in range(len(objects.box)):
            others = torch.cat([objects.box[:i], objects.box[i + 1 :]])
            assert covered(objects.box[i : i + 1], others) <= APART


def test_covered_is_of_the_smaller_box():
    boxes = torch.tensor([[0.0, 0, 4, 4], [10, 10, 12, 12]])
    others = torch.tensor([[2.0, 2, 4, 3], [0, 0, 2, 8]])
    assert covered(boxes, others).tolist() == [1.0, 0.0]
    assert covered(boxes, others[1:]).tolist() == [0.5, 0.0]
    assert covered(boxes, torch.empty(0, 4)).tolist() == [0.0, 0.0]


def test_parts_are_the_same_for_every_seed_and_differ():
    one, two = (ready(DetectionDigits(4, 3, 2, image_size=32, seed=seed))._ready() for seed in (0, 1))
    for a, b, n in zip(one, two, (4, 3, 2), strict=True):
        assert torch.equal(a.images, b.images)
        assert len(a) == n
    assert not torch.equal(one.train.images[:2], one.val.images[:2])
    data = DetectionDigits(4, 3, 2)
    assert (data.num_classes, data.image_size, data.in_channels, data.shape) == (10, 64, 3, "3 x 64 x 64")


def test_batches_are_padded():
    data = ready(DetectionDigits(8, 3, 0, image_size=32, batch_size=4, seed=0))
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, DetectionBatch)
    assert (batch.image.shape, batch.image.dtype) == ((4, 3, 32, 32), torch.uint8)
    for row, i in enumerate(batch.index.tolist()):
        objects = data._ready().train.objects[i]
        n = len(objects.label)
        assert torch.equal(batch.box[row, :n], objects.box)
        assert batch.box[row, n:].abs().sum() == 0
        assert batch.label[row].tolist() == objects.label.tolist() + [-1] * (batch.label.shape[1] - n)
    assert [len(b.image) for b in data.val_dataloader()] == [3]
    assert data.test_dataloader() == []


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="image_size must be at most 160 for DetectionDigits, got 161"):
        DetectionDigits(image_size=161)
    with pytest.raises(ValueError, match="train_images must be at least 1, got 0"):
        DetectionDigits(0)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0"):
        DetectionDigits(batch_size=0)


# ---- mirroring


def example() -> DetectionBatch:
    torch.manual_seed(0)
    box = torch.tensor([[[1.0, 2, 5, 7], [0, 0, 8, 8]], [[3, 1, 4, 6], [0, 0, 0, 0]]])
    label = torch.tensor([[4, 1], [2, -1]])
    return DetectionBatch(torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8), box, label, label < 0, torch.arange(2))


def test_mirroring_is_that_of_torchvision():
    batch = example()
    found = mirrored(batch, torch.tensor([True, True]))
    for row, n in enumerate((2, 1)):
        boxes = tv_tensors.BoundingBoxes(batch.box[row, :n], format="XYXY", canvas_size=(8, 8))
        assert torch.equal(found.box[row, :n], T.horizontal_flip(boxes).as_subclass(torch.Tensor))
        assert torch.equal(found.image[row], T.horizontal_flip(batch.image[row]))
    assert found.box[1, 1].tolist() == [0, 0, 0, 0]
    one = mirrored(batch, torch.tensor([False, True]))
    assert torch.equal(one.image[0], batch.image[0])
    assert torch.equal(one.box[0], batch.box[0])
    assert torch.equal(one.box[1], found.box[1])


def test_about_half_of_the_training_images_are_mirrored_by_epoch_and_place(tmp_path):
    data = coco(tmp_path, batch_size=2)
    data.trainer = SimpleNamespace(
        training=True, current_epoch=0, precision_plugin=SimpleNamespace(convert_input=lambda x: x)
    )
    batch = example()._replace(index=torch.arange(2))
    image = torch.arange(8, dtype=torch.uint8).expand(64, 1, 8, 8)
    many = DetectionBatch(image, torch.zeros(64, 1, 4), torch.full((64, 1), -1), torch.zeros(64, 1), torch.arange(64))

    def turned(index):
        found = data.on_after_batch_transfer(many._replace(index=index), 0)
        assert found.image.dtype == torch.float32
        return found.image[:, 0, 0, 0] > 0

    first = turned(torch.arange(64))
    assert 16 < first.sum() < 48
    assert torch.equal(turned(torch.arange(64).flip(0)), first.flip(0))
    data.trainer.current_epoch = 1
    assert not torch.equal(turned(torch.arange(64)), first)
    data.trainer.training = False
    assert not turned(torch.arange(64)).any()
    torch.testing.assert_close(data.on_after_batch_transfer(batch, 0).image, batch.image.float() / 255)


# ---- folders


def picture(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def annotation(image_id: int, category_id: int, bbox: list[float], **more: object) -> dict[str, object]:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def write_coco(root: Path, name: str = "train", folder: str = "{}", **changes: object) -> None:
    """Three pictures: two objects and a crowd; one object; none."""
    folder = folder.format(name)
    sizes = {"a.png": (40, 20), "b.png": (16, 16), "c.png": (10, 30)}
    for file, size in sizes.items():
        picture(root / folder / file, *size)
    content = {
        "images": [
            {"id": 10 * i, "file_name": file, "width": w, "height": h} for i, (file, (w, h)) in enumerate(sizes.items())
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            annotation(0, 7, [4, 2, 10, 6]),
            annotation(0, 3, [20, 0, 20, 20], iscrowd=1),
            annotation(10, 3, [8, 8, 8, 8]),
            annotation(0, 3, [-4, 10, 8, 5.5]),
        ],
        **changes,
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def coco(root: Path, **changes: object) -> DetectionFolder:
    write_coco(root)
    return DetectionFolder(str(root), image_size=20, num_workers=0, **changes)


@pytest.mark.parametrize("folder", ["{}", "images/{}", "images"])
def test_a_folder_in_the_layout_of_coco(folder, tmp_path):
    write_coco(tmp_path, folder=folder)
    write_coco(tmp_path, "val", folder=folder)
    data = ready(DetectionFolder(str(tmp_path), image_size=20, batch_size=2, num_workers=0, seed=0))
    assert data.class_names == ["cat", "dog"]  # by their ids
    train, val, test = data._ready()
    assert len(train) == 2  # without the picture that has no object
    assert val is test
    batch = val[[0, 1, 2]]
    assert batch.label.tolist() == [[1, 0, 0], [0, -1, -1], [-1, -1, -1]]
    assert batch.box[0].tolist() == [[2, 1, 7, 4], [10, 0, 20, 10], [0, 5, 2, 7.75]]  # half as large
    assert batch.ignored[0].tolist() == [False, True, False]
    assert batch.box[1, 0].tolist() == [10, 10, 20, 20]
    assert (batch.image[0, :, 10:] == 114).all()
    assert (batch.image[2, :, :, 7:] == 114).all()
    square = torch.from_numpy(np.array(Image.open(tmp_path / folder.format("val") / "b.png"))).permute(2, 0, 1)
    expected = T.resize(square, [20, 20], antialias=True)
    assert (batch.image[1].int() - expected.int()).abs().max() <= 1


def xml(name: str, *objects: str, size: tuple[int, int] = (40, 20)) -> str:
    return (
        f"<annotation><filename>{name}.png</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        + "".join(objects)
        + "</annotation>"
    )


def thing(name: str, *box: float, difficult: int = 0) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def write_voc(root: Path, text: str | None = None) -> None:
    for folder in ("ImageSets/Main", "Annotations"):
        (root / folder).mkdir(parents=True)
    for name in ("x", "y", "z"):
        picture(root / "JPEGImages" / f"{name}.png", 40, 20)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("x 1\ny -1\n\n")
    (root / "ImageSets" / "Main" / "test.txt").write_text("z\n")
    (root / "Annotations" / "z.xml").write_text(xml("z", thing("cow", 1, 1, 9, 9)))
    (root / "Annotations" / "x.xml").write_text(
        text or xml("x", thing("cow", 1, 1, 40, 20), thing("ape", 11, 5, 14, 8))
    )
    (root / "Annotations" / "y.xml").write_text(
        xml("y", thing("cow", 5, 5, 8, 8, difficult=1), thing("cow", 1, 1, 2, 2))
    )


def test_a_folder_in_the_layout_of_voc(tmp_path):
    write_voc(tmp_path)
    data = ready(DetectionFolder(str(tmp_path), train="trainval", image_size=40, num_workers=0, batch_size=2))
    assert data.class_names == ["ape", "cow"]
    train, val, test = data._ready()
    assert val is None
    batch = train[[0, 1]]
    assert batch.box.tolist() == [[[0, 0, 40, 20], [10, 4, 14, 8]], [[4, 4, 8, 8], [0, 0, 2, 2]]]
    assert batch.label.tolist() == [[1, 0], [1, 1]]
    assert batch.ignored.tolist() == [[False, False], [True, False]]
    assert len(test) == 1
    assert DetectionFolder(str(tmp_path), train="trainval", val="test", num_workers=0).num_classes == 2


def test_no_image_of_voc_is_learned_from_and_scored(tmp_path):
    """Part val is in trainval: it is left out where it has its role by its name, refused where it is named."""
    write_voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("y\n")
    assert ready(DetectionFolder(str(tmp_path), train="trainval", num_workers=0))._ready().val is None
    for role in ("val", "test"):
        with pytest.raises(ValueError, match="part val has images of part trainval, which is to be learned from"):
            DetectionFolder(str(tmp_path), train="trainval", **{role: "val"})
    (tmp_path / "ImageSets" / "Main" / "test.txt").unlink()
    assert ready(DetectionFolder(str(tmp_path), train="trainval", num_workers=0))._ready().test is None


def test_the_boxes_go_to_a_spawned_worker_without_file_descriptors(tmp_path):
    images = DetectionDigits(4, 0, 0, image_size=16).parts().train
    state = images.__getstate__()
    assert not any(isinstance(column, torch.Tensor) for one in state["objects"] for column in one)
    again = pickle.loads(pickle.dumps(images))
    for name, one, other in zip(DetectionBatch._fields, images[[0, 3]], again[[0, 3]], strict=True):
        assert torch.equal(one, other), name


def test_boxes_without_area_are_left_out_and_counted_once(tmp_path):
    flat = [annotation(10, 3, [16, 0, 5, 5]), annotation(10, 3, [1, 1, 0, 4]), annotation(10, 7, [1, 1, 2, 4])]
    write_coco(tmp_path, annotations=flat)
    with pytest.warns(UserWarning, match=r"instances_train.json: 2 box\(es\) without area .* annotations\[0\]"):
        data = DetectionFolder(str(tmp_path), image_size=16, num_workers=0)
    (objects,) = ready(data)._ready().train.objects
    assert objects.box.tolist() == [[1, 1, 3, 5]]


def not_json(root):
    (root / "annotations" / "instances_train.json").write_text("{")


def rename(root):
    (root / "train").rename(root / "pictures")


def other_size(root):
    picture(root / "train" / "a.png", 20, 40)


def broken(root):
    (root / "train" / "a.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": 3}, "not in COCO's layout: it needs the lists images, annotations, categories"),
        ({"images": [{"id": 1, "file_name": "a.png", "width": 3}]}, r"images\[0\] needs height, a int"),
        ({"annotations": [annotation(5, 3, [1, 1, 1, 1])]}, r"annotations\[0\] has the image_id 5, which is not"),
        ({"annotations": [annotation(0, 4, [1, 1, 1, 1])]}, r"annotations\[0\] has the category_id 4"),
        ({"annotations": [annotation(0, 3, [1, 1, 1])]}, r"bbox of annotations\[0\] must be four numbers"),
        ({"annotations": [annotation(0, 3, [1, 1, "a", 1])]}, r"bbox of annotations\[0\] must be four numbers"),
        (
            {"annotations": [annotation(0, 3, [1, 1, float("nan"), 1])]},
            r"bbox of annotations\[0\] must be four numbers",
        ),
        ({"annotations": []}, "part train of .* has no box to learn"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "two categories have the same name"),
    ],
)
def test_a_wrong_entry_of_coco_is_named(changes, words, tmp_path):
    write_coco(tmp_path, **changes)
    with pytest.raises(ValueError, match=words):
        ready(DetectionFolder(str(tmp_path), image_size=16, num_workers=0, batch_size=1))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (not_json, ValueError, "instances_train.json is no JSON"),
        (rename, FileNotFoundError, "the pictures of part train are in none of train, images/train, images of"),
        (other_size, ValueError, "a.png has 20 x 40 px and its annotation says 40 x 20"),
        (broken, ValueError, "cannot read .*a.png: .*; take it out of the annotations"),
    ],
)
def test_a_wrong_file_is_named(spoil, error, words, tmp_path):
    write_coco(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=words):
        ready(DetectionFolder(str(tmp_path), image_size=16, num_workers=0, batch_size=2))._ready().train[[0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation>", "x.xml is no XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + xml("x"), "x.xml declares a document type"),
        (xml("x", "<object><bndbox/></object>"), "x.xml: object 1 has no name"),
        (xml("x", "<object><name>cow</name></object>"), r"object 1 needs a number in <bndbox><xmin>, and has None"),
        (xml("x", thing("cow", 1, 1, "wide", 3)), r"object 1 needs a number in <bndbox><xmax>, and has 'wide'"),
        ("<annotation><object/></annotation>", "it needs a number in <size><width>"),
        (xml("x", size=(0, 20)), "x.xml: an image of 0 x 20 px: write down the size"),
    ],
)
def test_a_wrong_entry_of_voc_is_named(text, words, tmp_path):
    write_voc(tmp_path, text)
    with pytest.raises(ValueError, match=words):
        DetectionFolder(str(tmp_path), train="trainval")


def test_a_share_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"flip must lie in \[0, 1\], got 2"):
        coco(tmp_path, flip=2)


def test_missing_folders_and_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere: give --data.root"):
        DetectionFolder(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"neither annotations/\*.json \(COCO\) nor ImageSets/Main/\*.txt"):
        DetectionFolder(str(tmp_path))
    write_coco(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no part valid; it has train"):
        DetectionFolder(str(tmp_path), val="valid")
    (tmp_path / "voc").mkdir()
    write_voc(tmp_path / "voc")
    with pytest.raises(FileNotFoundError, match="has no part train; it has test, trainval"):
        DetectionFolder(str(tmp_path / "voc"))
    (tmp_path / "voc" / "Annotations" / "y.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*y.xml, and .*trainval.txt lists y"):
        DetectionFolder(str(tmp_path / "voc"), train="trainval")


def test_a_class_that_is_not_to_be_learned_is_an_error(tmp_path):
    write_coco(tmp_path)
    write_coco(tmp_path, "val", categories=[{"id": 7, "name": "dog"}, {"id": 3, "name": "emu"}])
    with pytest.raises(ValueError, match=r"part val has classes that part train, .* has not: emu"):
        DetectionFolder(str(tmp_path))


def test_a_method_that_does_not_learn_from_boxes_is_an_error(tmp_path):
    data = DetectionDigits(4, 0, 0, image_size=16)
    data.trainer = trainer(tmp_path)
    data.trainer.strategy._lightning_module = LightningModule()
    with pytest.raises(ValueError, match="DetectionDigits has images with boxes, which LightningModule does not learn"):
        data.setup("fit")
