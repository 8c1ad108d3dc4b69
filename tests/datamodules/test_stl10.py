import numpy as np
import pytest
from torchvision import datasets

from datamodules.stl10 import STL10


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Files as torchvision unpacks them: 20 labelled training, 10 test, 30 unlabelled random images."""
    folder = tmp_path / datasets.STL10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, n in (("train", 20), ("test", 10), ("unlabeled", 30)):
        rng.integers(256, size=(n, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{name}_X.bin")
        if name != "unlabeled":
            (np.arange(n, dtype=np.uint8) % 10 + 1).tofile(folder / f"{name}_y.bin")
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    return tmp_path


@pytest.mark.parametrize(("train_on", "n"), [("unlabeled", 30), ("train", 20), ("train+unlabeled", 50)])
def test_the_bank_is_the_labelled_images_whatever_is_trained_on(root, train_on, n):
    data = STL10(root=str(root), train_on=train_on, batch_size=10)
    data.prepare_data()
    data.setup("test")
    bank, test = data.test_dataloader()
    assert len(data.train_dataloader().dataset) == n
    assert [label for batch in bank for label in batch.label.tolist()] == [i % 10 for i in range(20)]
    assert len(test.dataset) == 10
    raw = np.fromfile(root / "stl10_binary/train_X.bin", np.uint8).reshape(20, 3, 96, 96)
    batch = bank.dataset[[4, 2]]
    assert np.array_equal(batch.image.numpy(), raw[[4, 2]].transpose(0, 1, 3, 2))  # stored column by column
    assert batch.image.is_contiguous()


@pytest.mark.parametrize(("train_on", "n"), [("unlabeled", 30), ("train", 10), ("train+unlabeled", 40)])
def test_held_out_images_leave_bank_and_training(root, train_on, n):
    data = STL10(root=str(root), train_on=train_on, val_size=10, batch_size=10)
    data.setup("test")
    bank, val = data.val_dataloader()
    assert (len(bank.dataset), len(val.dataset), len(data.train_dataloader().dataset)) == (10, 10, n)
