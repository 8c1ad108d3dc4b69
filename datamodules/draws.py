"""Random numbers as a function of (key, image): the same on any number of processes, and no state to save."""

import os

import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, the step of splitmix64, as a signed 64-bit number


def uniform(index: Tensor, n: int, *key: int) -> Tensor:
    """Draws n uniform numbers for each image, by hashing (key, image, column) with splitmix64.

    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014, https://doi.org/10.1145/2714064.2660195

    Args:
        index: (B,) int64, places of the images in the data set. Equal places get equal numbers, on every device.
        n: Numbers per image. The first columns do not change when n grows.
        key: What else the numbers depend on, for instance seed and epoch: int64, and their order matters.

    Returns:
        (B, n) float32 in [0, 1), multiples of 2**-24, on the device of `index`.
    """
    state = torch.zeros(1, dtype=torch.int64, device=index.device)
    parts: list[int | Tensor] = [*key, index]
    for part in parts:
        state = _mix((state + GOLDEN) ^ part)  # the last round makes it (B,)
    steps = torch.arange(1, n + 1, device=index.device) * GOLDEN  # int64 wraps around, as the algorithm wants
    return _shift(_mix(state[:, None] + steps), 40).to(torch.float32) * 2.0**-24


def normal(u: Tensor) -> Tensor:
    """Standard normal numbers from those of `uniform`, float32: each is where the distribution function has reached the
    middle of its step of 2**-24, so that none is infinite."""
    return torch.special.ndtri(u.double() + 2.0**-25).to(torch.float32)


def global_seed() -> int:
    """Returns the seed that `lightning.seed_everything` has set in the environment, 0 where it has not."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def _mix(z: Tensor) -> Tensor:
    """The finalizer of splitmix64, a bijection of int64."""
    z = (z ^ _shift(z, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    z = (z ^ _shift(z, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shifts right and fills with zeros: torch has no unsigned shift."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
