import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from datamodules.photos import Photos


def corners(images, label, photo):
    """Where each crop lies in the photograph (columns), by its upper left pixels."""
    size = images.images.shape[-1]
    rows = np.flatnonzero(images.labels == label)[:20]
    places = []
    for i in rows:
        crop = images.images[i].transpose(1, 2, 0)
        windows = np.lib.stride_tricks.sliding_window_view(photo, (4, 4), axis=(0, 1))
        at = np.argwhere((windows == crop[:4, :4].transpose(2, 0, 1)).all((2, 3, 4)))
        places += [
            x
            for y, x in at
            if (photo[y : y + size, x : x + size].shape == crop.shape)
            and (photo[y : y + size, x : x + size] == crop).all()
        ]
    return places


@pytest.mark.parametrize("size", [32, 64])
def test_crops_come_from_their_photograph_and_test_from_other_columns(size):
    data = Photos(image_size=size)
    train, _, _, test, _ = data.splits()
    assert (train.images.shape, test.images.shape) == ((2000, 3, size, size), (500, 3, size, size))
    assert np.bincount(train.labels).tolist() == [1000, 1000]
    for label, name in enumerate(data.class_names):
        photo = load_sample_image(f"{name}.jpg")
        trained, tested = corners(train, label, photo), corners(test, label, photo)
        assert len(trained) >= 20
        assert len(tested) >= 20
        assert max(trained) + size <= 448 <= min(tested)


def test_crops_larger_than_the_test_part_are_an_error():
    with pytest.raises(ValueError, match=r"image_size must be at most 192 for Photos .* got 224"):
        Photos(image_size=224)
