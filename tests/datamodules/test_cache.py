import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import cache
from datamodules.sets import ImageFiles


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(9):
        Image.new("RGB", (8, 8), (i, 2 * i, 3 * i)).save(folder / f"{i}.png")
    return folder


def files(root, size=8, **kwargs):
    names = sorted(path.name for path in root.glob("*.png"))
    return ImageFiles(root, names, np.arange(len(names)), size, 3, **kwargs)


def get(root, where="cache", **kwargs):
    return cache.cached(files(root, **kwargs), root.parent / where, "train", num_workers=0)


def stored(root, where="cache"):
    return sorted(path.name for path in (root.parent / where).iterdir() if path.suffix != ".lock")


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files decoded so far, in this process."""
    seen = []
    read = ImageFiles.read
    monkeypatch.setattr(ImageFiles, "read", lambda self, i: seen.append(self.names[i]) or read(self, i))
    return seen


def test_the_cache_holds_what_the_files_hold(root):
    images, unreadable = get(root)
    assert unreadable == []
    for a, b in zip(images[list(range(9))], files(root)[list(range(9))], strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert images.names == [f"{i}.png" for i in range(9)]
    assert isinstance(images.images, np.memmap)


def test_workers_write_the_same_in_the_same_order(root, monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK", 2)
    parallel, _ = cache.cached(files(root), root.parent / "parallel", "train", num_workers=2)
    assert np.array_equal(parallel.images, get(root)[0].images)


def test_unchanged_files_are_decoded_once(root, decoded):
    get(root)
    get(root)
    assert len(decoded) == 9


@pytest.mark.parametrize("change", ["content", "new", "removed", "size", "truncated", "record"])
def test_a_cache_of_another_state_is_rebuilt_and_the_old_one_removed(root, change):
    get(root)
    folder, size = root.parent / "cache", 8
    (pixels,) = folder.glob("*.uint8")
    if change == "content":
        Image.new("RGB", (8, 8), (200, 0, 0)).save(root / "4.png")
        os.utime(root / "4.png", ns=(1, 1))
    elif change == "new":
        shutil.copy(root / "1.png", root / "99.png")
    elif change == "removed":
        (root / "4.png").unlink()
    elif change == "size":
        size = 4
    elif change == "truncated":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    else:
        (folder / "train.json").write_text('{"key": ')
    images, _ = get(root, size=size)
    now = files(root, size=size)
    assert np.array_equal(images.images, now[list(range(len(now)))].image.numpy())
    assert len(stored(root)) == 2


def test_unreadable_files_are_left_out_and_named(root):
    (root / "4.png").write_bytes(b"broken")
    for _ in range(2):
        images, unreadable = get(root, skip_unreadable=True)
        assert unreadable == ["4.png"]
        assert images[list(range(8))].label.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
        assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    with pytest.raises(ValueError, match=r"4\.png.*--data\.skip_unreadable true"):
        get(root)
    with pytest.raises(ValueError, match=r"4\.png.*--data\.skip_unreadable true"):
        get(root, where="other")
    assert stored(root, "other") == []


def test_a_full_disk_leaves_nothing_behind(root, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file, self.room = file, 1000

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    opened = Path.open
    monkeypatch.setattr(cache, "_CHUNK", 2)
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", *a, **k: (Full if mode == "wb" else lambda f: f)(opened(self, mode, *a, **k)),
    )
    with pytest.raises(OSError, match=r"No space left.*--data\.cache_dir"):
        get(root)
    assert stored(root) == []


def test_a_disk_that_is_too_small_is_an_error_before_decoding(root, monkeypatch, decoded):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OSError, match=r"takes 1\.73e-06 GB and .* has 0 GB left.*--data\.cache_dir"):
        get(root)
    assert decoded == []


def test_a_folder_that_cannot_be_written_is_an_error_with_a_way_out(root):
    (root.parent / "cache").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write the cache folder .*--data\.cache_dir"):
        get(root)


def build(rank, root, seen):
    read = ImageFiles.read

    def slow(self, i):
        with open(seen, "a") as out:
            out.write(f"{i}\n")
        return read(self, i)

    ImageFiles.read = slow
    images, _ = get(root)
    assert images.images[:, 0, 0, 0].tolist() == list(range(9))


def test_processes_that_start_together_decode_once(root, tmp_path):
    torch.multiprocessing.start_processes(build, (root, tmp_path / "seen"), nprocs=3, start_method="fork")
    assert len((tmp_path / "seen").read_text().split()) == 9
    assert len(stored(root)) == 2
