import pickle
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets

from datamodules.cifar import CIFAR10, CIFAR100


def write(root, archive, key, n=20):
    """Files as torchvision unpacks them, with random pixels and labels 0, 1, 2, ..."""
    folder = root / archive.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, _ in archive.train_list + archive.test_list:
        data = rng.integers(256, size=(n, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, key: [i % 10 for i in range(n)]}))
    (folder / archive.meta["filename"]).write_bytes(pickle.dumps({archive.meta["key"]: []}))
    return folder


@pytest.mark.parametrize(("data", "key", "files"), [(CIFAR10, "labels", 5), (CIFAR100, "fine_labels", 1)])
def test_images_and_labels_are_those_of_the_files(tmp_path, monkeypatch, data, key, files):
    folder = write(tmp_path, data.archive, key)
    monkeypatch.setattr(data.archive, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    cifar = data(root=str(tmp_path), batch_size=4)
    cifar.prepare_data()
    cifar.setup("test")
    bank, test = cifar.test_dataloader()
    assert (len(bank.dataset), len(test.dataset)) == (20 * files, 20)
    saved = pickle.loads((folder / data.archive.test_list[0][0]).read_bytes())
    batch = test.dataset[[3, 7]]
    assert np.array_equal(batch.image.numpy(), saved["data"][[3, 7]].reshape(2, 3, 32, 32))
    assert batch.label.tolist() == [3, 7]


def test_classes_are_known_before_there_are_files(tmp_path):
    assert CIFAR10(root=str(tmp_path)).class_names[9] == "truck"
    names = CIFAR100(root=str(tmp_path)).class_names
    assert len(names) == 100 == CIFAR100(root=str(tmp_path)).num_classes
    assert names == sorted(set(names))


def test_without_network_the_error_names_the_folder_and_the_file(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", unreachable)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/x and .*no network.* cifar-10-python\.tar\.gz from http"):
        CIFAR10(root=str(tmp_path / "x")).prepare_data()
    with pytest.raises(FileNotFoundError, match=rf"CIFAR10 is not in {tmp_path}/x: call prepare_data"):
        CIFAR10(root=str(tmp_path / "x")).setup("fit")


def test_one_process_downloads(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: bool(calls))
    monkeypatch.setattr(
        datasets.CIFAR10, "download", lambda self: calls.append(write(tmp_path, datasets.CIFAR10, "labels"))
    )
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    CIFAR10(root=str(tmp_path)).prepare_data()
    assert len(calls) == 1
