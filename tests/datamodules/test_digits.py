import numpy as np
import pytest
from sklearn.datasets import load_digits

from datamodules.digits import Digits


@pytest.mark.parametrize(("image_size", "in_channels"), [(32, 3), (16, 1)])
def test_images_are_the_scans_enlarged(image_size, in_channels):
    data = Digits(image_size=image_size, in_channels=in_channels)
    data.setup("test")
    _, test = data.test_dataloader()
    images = np.concatenate([batch.image.numpy() for batch in test])
    assert images.shape == (360, in_channels, image_size, image_size)
    assert (images == images[:, :1]).all()
    small = images[:, 0].reshape(360, 8, image_size // 8, 8, image_size // 8).mean((2, 4)) * 16 / 255
    scans = load_digits().images
    distance = np.abs(small[:, None] - scans[None]).mean((2, 3))  # (360, 1797)
    nearest = distance.argmin(1)
    assert len(set(nearest)) == 360
    assert distance.min(1).max() < 1
    labels = np.concatenate([batch.label.numpy() for batch in test])
    assert (load_digits().target[nearest] == labels).all()


def test_the_split_is_balanced_and_the_same_for_every_seed():
    first, second = Digits(seed=0), Digits(seed=1)
    first.setup("test")
    second.setup("test")
    train, _, _, test, _ = first.splits()
    assert (len(train), len(test)) == (1437, 360)
    assert np.bincount(test.labels).tolist() == [36] * 10
    assert (first.splits().test.labels == second.splits().test.labels).all()


def test_two_channels_are_an_error():
    with pytest.raises(ValueError, match="in_channels must be 1 or 3 for Digits, got 2"):
        Digits(in_channels=2)
