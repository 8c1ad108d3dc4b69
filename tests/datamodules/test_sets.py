import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.loader import EvalBatches, Loader
from datamodules.sets import ImageArray, ImageFiles, Part, WithUnlabelled, balanced_rows
from tests.datamodules.recorder import numbers


@pytest.fixture
def folder(tmp_path):
    """Five grey 8x8 images, each of one value: 0, 10, ... 40; the fourth is broken."""
    for i in range(5):
        Image.new("L", (8, 8), 10 * i).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:40])
    return tmp_path


def files(folder, **kwargs):
    return ImageFiles(folder, [f"{i}.png" for i in range(5)], np.arange(5), 8, 1, **kwargs)


def test_an_array_returns_a_whole_batch():
    images = np.random.default_rng(0).integers(256, size=(6, 3, 4, 4), dtype=np.uint8)
    batch = ImageArray(images, np.arange(6))[[4, 1]]
    assert torch.equal(batch.image, torch.from_numpy(images[[4, 1]]))
    assert batch.label.tolist() == batch.index.tolist() == [4, 1]
    assert (batch.image.dtype, batch.label.dtype, batch.views) == (torch.uint8, torch.int64, ())


@pytest.mark.parametrize("images", [numbers(3), Part(numbers(9), np.arange(3))])
def test_no_indices_give_an_empty_batch(images):
    batch = images[[]]
    assert batch.image.shape == (0, 1, 8, 8)
    assert len(batch.label) == len(batch.index) == 0


def test_a_part_keeps_the_places_in_the_whole():
    part = Part(numbers(9), np.array([8, 2, 5]))
    batch = part[[0, 2]]
    assert batch.index.tolist() == batch.image[:, 0, 0, 0].tolist() == [8, 5]
    assert part.names == ["8.png", "2.png", "5.png"]
    assert part.labels.tolist() == [0, 0, 1]


def test_files_are_decoded_into_a_batch(folder):
    batch = files(folder)[[4, 0, 2]]
    assert batch.image.shape == (3, 1, 8, 8)
    assert batch.image.float().mean((1, 2, 3)).tolist() == [40, 0, 20]
    assert batch.label.tolist() == batch.index.tolist() == [4, 0, 2]
    assert files(folder)[[]].image.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_an_error_that_names_it(folder, workers):
    loader = Loader(files(folder), EvalBatches(5, 5), workers)
    with pytest.raises(ValueError, match=r"3\.png.*--data\.skip_unreadable true"):
        list(loader)
    loader.close()  # ends the workers, though the error's traceback holds the iteration
    assert torch.multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_image_stands_in_for_an_unreadable_one_and_it_is_marked(folder, workers):
    images = files(folder, skip_unreadable=True)
    loader = Loader(images, EvalBatches(5, 5), workers)
    (batch,) = loader
    loader.close()
    assert batch.image[:, 0, 0, 0].tolist() == [0, 10, 20, 40, 40]
    assert batch.label.tolist() == batch.index.tolist() == [0, 1, 2, 4, 4]
    assert images.unreadable.tolist() == [False, False, False, True, False]


def test_what_stands_in_is_of_the_part_and_keeps_its_own_label(folder):
    part = Part(files(folder, skip_unreadable=True), np.array([1, 3]))
    assert part[[1, 0]].index.tolist() == [1, 1]
    both = WithUnlabelled(part, files(folder, skip_unreadable=True))
    batch = both[[1, 0, 5]]
    assert batch.label.tolist() == [1, 1, -1]
    assert batch.image[:, 0, 0, 0].tolist() == [10, 10, 40]
    with pytest.raises(ValueError, match="none of the 1 images of a part"):
        Part(files(folder, skip_unreadable=True), np.array([3]))[[0]]


def test_a_set_without_a_readable_image_is_an_error(folder):
    for path in folder.iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"none of the 5 images under .* can be read"):
        files(folder, skip_unreadable=True)[[0]]


def test_balanced_rows_take_as_equal_numbers_as_there_are():
    labels = np.array([0] * 50 + [1] * 50 + [2] * 3 + [-1] * 20)
    rows = balanced_rows(labels, 23, seed=0)
    assert np.bincount(labels[rows]).tolist() == [10, 10, 3]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.tolist() == balanced_rows(labels, 23, seed=0).tolist() != balanced_rows(labels, 23, seed=1).tolist()


def test_behind_the_labelled_images_lies_a_pool_without_labels():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    whole = ImageArray(images, np.array([0, 1, 0, 1, 0, 1]))
    both = WithUnlabelled(Part(whole, np.array([1, 4])), whole)
    batch = both[[1, 0, 2, 6]]
    assert batch.image.flatten().tolist() == [4, 1, 0, 4]
    assert batch.label.tolist() == [0, 1, -1, -1]
    assert batch.index.tolist() == [1, 0, 2, 6]  # the same picture has two places, so that its views differ
    again = both[[9, 1, 10]]  # the second time
    assert again.image.flatten().tolist() == [4, 4, 0]
    assert again.label.tolist() == [0, 0, -1]
    assert again.index.tolist() == [9, 1, 10]
    with pytest.raises(ValueError, match="labelled images first"):
        both[[3, 0]]
