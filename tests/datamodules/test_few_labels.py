"""Which labelled images are used where few labels are asked for, and how another run gets the same."""

import json

import numpy as np
import pytest
from torchvision import datasets

import datamodules
from datamodules import CIFAR10, Digits, ImageFolder
from datamodules.few_labels import labelled_rows, record, recorded_rows
from datamodules.images import ImageData, Splits
from datamodules.sets import ImageArray, Part, places
from datamodules.stl10 import STL10
from ssl_lightning.errors import arguments
from tests.datamodules.recorder import Numbers, Recorder, Unlabelled, numbers, quiet_trainer
from tests.datamodules.test_image_folder import labelled

CLASSES = ["a", "b", "c"]


def uneven():
    """20, 6 and 2 images of three classes, and 12 without a label."""
    rng = np.random.default_rng(5)
    return rng.permutation([0] * 20 + [1] * 6 + [2] * 2 + [-1] * 12)


def counts(labels, rows):
    return np.bincount(labels[rows], minlength=3).tolist()


def set_up(data):
    data.prepare_data()
    data.setup("test")
    return data


def indices(loader):
    return [i for batch in loader for i in batch.index.tolist()]


# ---- the draw


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (1e-9, [1, 1, 1]),
        (0.1, [1, 1, 1]),  # 2.8
        (6 / 28, [2, 2, 2]),
        (0.5, [6, 6, 2]),
        (1.0, [20, 6, 2]),
    ],
)
def test_a_share_is_as_even_as_there_are_images(fraction, expected):
    labels = uneven()
    rows = labelled_rows(labels, CLASSES, 0, fraction)
    assert counts(labels, rows) == expected
    assert (np.diff(rows) > 0).all()


def test_a_number_in_each_class():
    labels = uneven()
    assert counts(labels, labelled_rows(labels, CLASSES, 0, per_class=1)) == [1, 1, 1]
    assert counts(labels, labelled_rows(labels, CLASSES, 0, per_class=2)) == [2, 2, 2]
    with pytest.raises(ValueError, match=r"class c has 2 .* where 3 are asked for: set labels_per_class to at most 2"):
        labelled_rows(labels, CLASSES, 0, per_class=3)


def test_the_seed_decides_and_fewer_labels_are_among_more():
    labels = np.arange(1000) % 3
    some, more = (set(labelled_rows(labels, CLASSES, 0, f).tolist()) for f in (0.03, 0.3))
    assert some < more
    assert some == set(labelled_rows(labels, CLASSES, 0, 0.03).tolist())
    assert some != set(labelled_rows(labels, CLASSES, 1, 0.03).tolist())


@pytest.mark.parametrize("few", [{"fraction": 0.5}, {"per_class": 1}])
def test_a_class_without_an_image_is_refused(few):
    with pytest.raises(
        ValueError, match=r"class d has 0 labelled .* where 1 are asked for: hold out \(val_size\) fewer"
    ):
        labelled_rows(uneven(), [*CLASSES, "d"], 0, **few)


# ---- in a data set


def test_training_and_bank_are_the_drawn_images_and_the_queries_stay(caplog):
    caplog.set_level("INFO")
    data = set_up(Digits(batch_size=7, label_fraction=0.01, seed=3))
    assert caplog.messages == ["14 of 1,437 labelled training images are used, 1 to 2 of each class"]
    bank, test = data.test_dataloader()
    drawn = indices(bank)
    assert len(drawn) == 14
    assert sorted(indices(data.train_dataloader())) == drawn == data.labelled_indices()["indices"]
    assert indices(data.val_dataloader()[0]) == drawn
    assert len(indices(test)) == 360
    whole = set_up(Digits(seed=3))
    assert whole.labelled_indices() is None
    images = whole.train_dataloader().dataset[drawn]
    assert np.array_equal(images.image, data.train_dataloader().dataset[list(range(14))].image)
    assert images.label.tolist() == data.labelled_indices()["labels"]
    assert data.labelled_indices()["images"] == 1437


def test_what_is_held_out_is_not_drawn():
    data = set_up(Digits(batch_size=10, val_size=1000, labels_per_class=30, seed=1))
    bank, val = data.val_dataloader()
    held = set(indices(set_up(Digits(val_size=1000, seed=1)).val_dataloader()[1]))
    assert set(indices(val)) == held
    assert len(indices(bank)) == 300
    assert not set(indices(bank)) & held
    assert data.labelled_indices()["indices"] == indices(bank)


def test_unlabelled_images_are_left_out():
    class Both(Numbers):
        def splits(self):
            train = ImageArray(numbers(32).images, np.where(np.arange(32) % 3 == 0, np.arange(32) % 2, -1))
            bank = Part(train, np.flatnonzero(train.labels >= 0))
            return Splits(train, bank, None, None, train)

    data = set_up(Both(labels_per_class=2, val_size=2, batch_size=4))
    drawn = sorted(indices(data.train_dataloader()))
    assert len(drawn) == 4
    assert all(i % 3 == 0 for i in drawn)
    assert data.labelled_indices() == {"images": 32, "indices": drawn, "labels": [i % 2 for i in drawn]}


@pytest.mark.parametrize("train_on", ["unlabeled", "train", "train+unlabeled"])
def test_of_stl10_the_same_images_are_drawn_whatever_it_trains_on(train_on, tmp_path, monkeypatch):
    folder = tmp_path / datasets.STL10.base_folder
    folder.mkdir()
    for name, n in (("train", 40), ("test", 10), ("unlabeled", 30)):
        np.zeros((n, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{name}_X.bin")
        if name != "unlabeled":
            (np.arange(n, dtype=np.uint8) % 10 + 1).tofile(folder / f"{name}_y.bin")
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    data = set_up(STL10(root=str(tmp_path), train_on=train_on, labels_per_class=2, batch_size=10, seed=0))
    drawn = data.labelled_indices()["indices"]
    assert sorted(i % 10 for i in drawn) == sorted(list(range(10)) * 2)
    assert len(data.train_dataloader().dataset) == 20
    assert drawn == labelled_rows(np.arange(40) % 10, data.class_names, 0, per_class=2).tolist()


def of_images():
    return [name for name in datamodules.__all__ if issubclass(kind(name), ImageData)]


def kind(name):
    found = getattr(datamodules, name)
    return found if isinstance(found, type) else object


@pytest.mark.parametrize("name", of_images())
def test_every_data_set_of_images_takes_them(name):
    assert {"label_fraction", "labels_per_class", "label_indices"} <= set(arguments(f"datamodules.{name}"))


def test_data_without_labels_are_refused():
    for few in ({"label_fraction": 0.5}, {"labels_per_class": 2}, {"label_indices": "rows.json"}):
        name = next(iter(few))
        with pytest.raises(ValueError, match=f"{name}=.* needs labelled training images, and there are none"):
            set_up(Unlabelled(**few))


@pytest.mark.parametrize(
    ("few", "message"),
    [
        ({"label_fraction": 0.0}, r"label_fraction must lie in \(0, 1\], got 0.0"),
        ({"label_fraction": 1.5}, r"label_fraction must lie in \(0, 1\], got 1.5"),
        ({"label_fraction": -0.1}, "label_fraction"),
        ({"labels_per_class": 0}, "labels_per_class must be at least 1, got 0"),
        (
            {"label_fraction": 0.1, "labels_per_class": 1},
            "label_fraction=0.1 and labels_per_class=1 are given: give one",
        ),
        ({"label_indices": "a", "labels_per_class": 1}, "labels_per_class=1 and label_indices=a are given: give one"),
    ],
)
def test_arguments_out_of_range_and_two_at_once_are_refused(few, message):
    with pytest.raises(ValueError, match=message):
        Numbers(**few)


def test_fewer_images_than_a_batch_are_an_error_that_names_the_limit():
    data = Digits(label_fraction=0.01)
    message = r"14 training samples do not fill one batch of 256 .* set batch_size to at most 14"
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1).fit(Recorder(), datamodule=data)


# ---- from a file


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("seed", [0, 8])
def test_another_run_takes_the_images_of_a_file(seed, tmp_path):
    drawn = set_up(Digits(label_fraction=0.05, seed=3)).labelled_indices()
    data = set_up(Digits(label_indices=write(tmp_path / "rows.json", drawn), seed=seed, batch_size=8))
    assert data.labelled_indices() == drawn
    assert indices(data.val_dataloader()[0]) == drawn["indices"]


def test_files_have_names(tmp_path):
    root = labelled(tmp_path / "data", "train", "val", n=4)
    args = {"root": str(root), "image_size": 8, "batch_size": 2, "num_workers": 0}
    data = set_up(ImageFolder(labels_per_class=2, seed=2, **args))
    drawn = data.labelled_indices()
    names = [f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(4)]
    assert drawn["names"] == [names[i] for i in drawn["indices"]]
    path = write(tmp_path / "rows.json", drawn)
    assert set_up(ImageFolder(label_indices=path, **args)).labelled_indices() == drawn
    (root / "train" / "cat" / "2a.png").write_bytes((root / "train" / "cat" / "2.png").read_bytes())
    with pytest.raises(ValueError, match=r"rows\.json was made with other data: their images and .*are not these"):
        set_up(ImageFolder(label_indices=path, **args))


def test_of_a_file_written_by_hand_the_numbers_are_enough(tmp_path):
    images = Part(numbers(20), np.arange(4, 20))
    rows = recorded_rows(write(tmp_path / "rows.json", {"indices": [5, 19]}), images)
    assert rows.tolist() == [1, 15]
    assert places(Part(images, rows)).tolist() == [5, 19]
    assert record(Part(images, rows))["names"] == ["5.png", "19.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"indices": [3, 9]}, r"image 3 of .*rows\.json is not among the 16 labelled training images"),
        ({"indices": [4, 20]}, "image 20 of"),
        ({"indices": [4, -1]}, "rising order"),
        ({"indices": [4, 4]}, "rising order"),
        ({"indices": [4, 5.5]}, "rising order"),
        ({"indices": []}, "rising order, one or more"),
        ({"indices": [4, 5], "labels": [1, 1]}, "made with other data: their labels are not these"),
        ({"indices": [4, 5], "names": ["4.png", "6.png"]}, "made with other data: their names are not these"),
        ({"indices": [4, 5], "images": 21}, "made with other data: their images are not these"),
        ({"rows": [4]}, r'is not JSON of the form \{"indices"'),
        ({"indices": ["a"]}, "is not JSON of the form"),
        ([4, 5], "is not JSON of the form"),
    ],
)
def test_a_file_of_other_data_or_form_is_refused(content, message, tmp_path):
    images = Part(numbers(20), np.arange(4, 20))
    with pytest.raises(ValueError, match=message):
        recorded_rows(write(tmp_path / "rows.json", content), images)


def test_a_file_that_is_not_there_or_no_json_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.json: a run with few labels keeps"):
        recorded_rows(str(tmp_path / "gone.json"), numbers(4))
    (tmp_path / "rows.txt").write_text("4\n5\n")
    with pytest.raises(ValueError, match=r"rows\.txt is not JSON"):
        recorded_rows(str(tmp_path / "rows.txt"), numbers(4))


def test_what_another_seed_has_held_out_cannot_be_taken(tmp_path):
    path = write(tmp_path / "rows.json", set_up(Digits(val_size=700, labels_per_class=5, seed=3)).labelled_indices())
    same = Digits(val_size=700, label_indices=path, seed=3)
    assert len(set_up(same).labelled_indices()["indices"]) == 50
    with pytest.raises(ValueError, match=r"is not among the 737 labelled .* hold out \(val_size\) the same images"):
        set_up(Digits(val_size=700, label_indices=path, seed=4))


def test_cifar_is_drawn_by_its_labels(monkeypatch):
    def part(self, train):
        n = 500 if train else 100
        return ImageArray(np.zeros((n, 3, 32, 32), dtype=np.uint8), np.arange(n) % 10)

    monkeypatch.setattr(CIFAR10, "_part", part)
    data = CIFAR10(label_fraction=0.1, batch_size=50)
    data.setup("fit")
    assert np.bincount(data.labelled_indices()["labels"]).tolist() == [5] * 10
