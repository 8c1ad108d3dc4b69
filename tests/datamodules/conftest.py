import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """(427, 640, 3) uint8"""
    return load_sample_image("china.jpg")


@pytest.fixture(scope="session")
def tiles(photo) -> Tensor:
    """(13, 3, 32, 32) uint8: pieces of a photograph."""
    squares = torch.from_numpy(photo.copy())[:416, :416].permute(2, 0, 1).unfold(1, 32, 32).unfold(2, 32, 32)
    return squares.diagonal(dim1=1, dim2=2).permute(3, 0, 1, 2).contiguous()


@pytest.fixture(scope="session")
def x(tiles) -> Tensor:
    return tiles / 255
