import warnings

import pytest
import torch
from PIL import Image

from datamodules.image_folder import ImageFolder
from tests.datamodules.recorder import Recorder, quiet_trainer


def draw(path, value=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def labelled(root, *splits, classes=("cat", "dog"), n=3):
    for split in splits:
        for label, name in enumerate(classes):
            for i in range(n):
                draw(root / split / name / f"{i}.png", 100 * label + i)
    return root


def folder(root, **kwargs):
    return ImageFolder(str(root), **{"image_size": 8, "batch_size": 2, "num_workers": 0} | kwargs)


def set_up(data):
    data.prepare_data()
    data.setup("test")
    return data


def values(loader):
    return [int(v) for batch in loader for v in batch.image[:, 0, 0, 0]]


def labels(loader):
    return [i for batch in loader for i in batch.label.tolist()]


@pytest.mark.parametrize("cache", [False, True])
def test_folders_of_classes_are_read_in_sorted_order(tmp_path, cache):
    data = set_up(folder(labelled(tmp_path, "train", "val", "test"), cache=cache))
    assert (data.class_names, data.num_classes) == (["cat", "dog"], 2)
    for loader in (*data.val_dataloader(), *data.test_dataloader()):
        assert values(loader) == [0, 1, 2, 100, 101, 102]
        assert labels(loader) == [0, 0, 0, 1, 1, 1]
    assert data.names[:2] == ["test/cat/0.png", "test/cat/1.png"]


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_the_one_held_out_folder_serves_validation_and_test(tmp_path, held_out):
    labelled(tmp_path, "train", n=3)
    labelled(tmp_path, held_out, n=1)
    data = set_up(folder(tmp_path))
    assert values(data.val_dataloader()[1]) == values(data.test_dataloader()[1]) == [0, 100]
    assert data.names == [f"{held_out}/cat/0.png", f"{held_out}/dog/0.png"]


def test_without_a_held_out_folder_evaluation_needs_val_size(tmp_path):
    labelled(tmp_path, "train")
    data = set_up(folder(tmp_path))
    assert data.val_dataloader() == data.test_dataloader() == []
    assert len(data.names) == 6
    bank, val = set_up(folder(tmp_path, val_size=2)).val_dataloader()
    assert sorted(labels(val)) == [0, 1]
    assert len(labels(bank)) == 4


@pytest.mark.parametrize("cache", [False, True])
def test_a_flat_folder_of_any_depth_is_unlabelled(tmp_path, cache):
    for i, name in enumerate(["b.png", "a/deep/c.JPG", "a/d.bmp"]):
        draw(tmp_path / name, 10 * i)
    draw(tmp_path / ".hidden" / "e.png")
    draw(tmp_path / ".f.png")
    (tmp_path / "notes.txt").write_text("not an image")
    data = set_up(folder(tmp_path, cache=cache))
    assert (data.num_classes, data.class_names, data.val_dataloader()) == (None, [], [])
    assert data.names == ["a/d.bmp", "a/deep/c.JPG", "b.png"]
    assert values(data.predict_dataloader()) == [20, 10, 0]
    assert labels(data.predict_dataloader()) == [-1, -1, -1]
    model = Recorder()
    quiet_trainer(max_epochs=1, log_every_n_steps=1).fit(model, datamodule=data)
    assert len(model.trained) == 1


def test_unlabelled_train_and_test_folders_describe_the_test_images(tmp_path):
    draw(tmp_path / "train" / "a.png")
    draw(tmp_path / "test" / "b.png")
    data = set_up(folder(tmp_path))
    assert (data.num_classes, data.names) == (None, ["test/b.png"])


def test_wrong_folders_are_errors_that_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*/missing.*--data\.root"):
        folder(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no image in "):
        folder(tmp_path)
    labelled(tmp_path / "a", "test")
    with pytest.raises(FileNotFoundError, match=r"has test, but no folder train"):
        folder(tmp_path / "a")
    labelled(tmp_path / "b", "train")
    (tmp_path / "b" / "val").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image in .*/b/val"):
        folder(tmp_path / "b")
    draw(tmp_path / "b" / "val" / "loose.png")
    with pytest.raises(ValueError, match=r"/b/train has folders of classes, but .*/b/val does not"):
        folder(tmp_path / "b")
    draw(tmp_path / "b" / "train" / "loose.png")
    with pytest.raises(ValueError, match=r"both folders of classes and loose images, such as train/loose\.png"):
        folder(tmp_path / "b")


def test_classes_that_differ_between_splits_are_named(tmp_path):
    labelled(tmp_path, "train")
    labelled(tmp_path, "val", classes=("cat", "cow"))
    with pytest.raises(ValueError, match=r"must have the same classes, .* images of cow, dog$"):
        folder(tmp_path)


@pytest.mark.parametrize(("image_size", "store_size"), [(32, 32), (64, 64), (96, 110), (224, 256)])
def test_the_stored_size_follows_the_image_size(tmp_path, image_size, store_size):
    draw(tmp_path / "a.png", size=(40, 30))
    data = set_up(folder(tmp_path, image_size=image_size))
    assert data.store_size == store_size
    (batch,) = data.predict_dataloader()
    assert batch.image.shape == (1, 3, store_size, store_size)


def test_sizes_that_cannot_be_are_errors(tmp_path):
    draw(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"store_size must be at least image_size \(8\), got 4"):
        folder(tmp_path, store_size=4)
    with pytest.raises(ValueError, match=r"in_channels must be 1 or 3 for ImageFolder, got 13"):
        folder(tmp_path, in_channels=13)


def test_grey_images_have_one_channel(tmp_path):
    (batch,) = set_up(folder(labelled(tmp_path, "train", n=1), in_channels=1)).predict_dataloader()
    assert batch.image.shape == (2, 1, 8, 8)


def test_the_cache_can_lie_elsewhere_apart_from_those_of_other_folders(tmp_path):
    where = tmp_path / "cache"
    for i, name in enumerate(["a/images", "b/images"]):
        draw(tmp_path / name / "x.png", 10 * i)
    found = [
        values(set_up(folder(tmp_path / n / "images", cache=True, cache_dir=str(where))).predict_dataloader())
        for n in "ab"
    ]
    assert found == [[0], [10]]
    assert len(list(where.iterdir())) == 2
    assert not (tmp_path / "a/images/.ssl_lightning_cache").exists()


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_counted_once_with_a_warning(tmp_path, cache, workers):
    labelled(tmp_path, "train", n=8)
    (tmp_path / "train/cat/3.png").write_bytes(b"broken")
    data = folder(tmp_path, cache=cache, skip_unreadable=True, num_workers=workers)
    with pytest.warns(UserWarning, match=r"1 of 16 images could not be read .*3\.png") as caught:
        quiet_trainer(max_epochs=2).fit(Recorder(), datamodule=data)
    assert sum("could not be read" in str(warning.message) for warning in caught) == 1
    with pytest.raises(ValueError, match=r"cannot read .*3\.png.*--data\.skip_unreadable true"):
        quiet_trainer(max_epochs=1).fit(Recorder(), datamodule=folder(tmp_path, cache=cache, num_workers=workers))
    assert torch.multiprocessing.active_children() == []  # also after the error


def fit(root):
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", message=".*LeafSpec")
        data = folder(root, cache=True)
        quiet_trainer(max_steps=1, devices=2, strategy="ddp_fork").fit(Recorder(), datamodule=data)


def test_two_processes_share_the_cache(tmp_path):
    fit(labelled(tmp_path, "train", "test"))
    assert len(list((tmp_path / ".ssl_lightning_cache").glob("*.uint8"))) == 2
    assert torch.equal(
        torch.tensor(values(set_up(folder(tmp_path, cache=True)).val_dataloader()[0])),
        torch.tensor([0, 1, 2, 100, 101, 102]),
    )
