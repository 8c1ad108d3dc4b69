"""Jigsaw puzzles: far apart permutations, and tiles cut out of images."""

from itertools import permutations

import numpy as np
import torch
from torch import Tensor


def permutation_set(tiles: int, count: int, seed: int) -> Tensor:
    """Permutations that differ from each other in as many places as can be had greedily.

    Each next one is that whose least Hamming distance to those chosen is greatest; of equals, that of the greatest
    mean distance; of equals, that which the seed puts first. Algorithm 1 of Noroozi and Favaro takes the greatest mean
    alone: 1000 permutations of 9 tiles then have the same mean, 8.01 places, but some differ in 2 only, here in 5.

    Distances to the chosen ones are kept for all candidates, and a new one costs one pass over each tile's place in
    bytes: 1000 of 9! take 1.4 s on one slow core.

    Args:
        tiles: Length of a permutation, at most 9.
        count: How many.
        seed: Decides the first one and between equals.

    Returns:
        (count, tiles) int64.

    Raises:
        ValueError: there are fewer than ``count`` permutations.
    """
    every = np.array(list(permutations(range(tiles))), dtype=np.uint8)  # (tiles!, tiles)
    if not 2 <= count <= len(every):
        raise ValueError(f"{tiles} tiles have {len(every)} permutations: choose 2 to {len(every)}, got {count}")
    np.random.default_rng(seed).shuffle(every)
    by_place = np.ascontiguousarray(every.T)
    least = np.full(len(every), tiles, dtype=np.uint8)
    total = np.zeros(len(every), dtype=np.int32)
    differs, distance = np.empty(len(every), dtype=bool), np.empty(len(every), dtype=np.uint8)
    chosen = [0]
    while len(chosen) < count:
        distance[:] = 0
        for place, tile in zip(by_place, every[chosen[-1]], strict=True):
            distance += np.not_equal(place, tile, out=differs).view(np.uint8)
        np.minimum(least, distance, out=least)
        total += distance
        farthest = np.flatnonzero(least == least.max())
        chosen.append(int(farthest[total[farthest].argmax()]))
    return torch.from_numpy(every[chosen].astype(np.int64))


def cut(x: Tensor, place: Tensor, size: int) -> Tensor:
    """Cuts square tiles, each channel of a tile from a place of its own.

    Args:
        x: (B, C, H, W).
        place: (B, T, C, 2) int64 on the CPU: top and left of each channel of the T tiles, inside of the image.
        size: Side of a tile in pixels.

    Returns:
        (B, T, C, size, size)
    """
    side = torch.arange(size, device=x.device)
    top, left = place.to(x.device, non_blocking=True)[..., None, None].unbind(3)  # (B, T, C, 1, 1) each
    image = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1, 1)
    channel = torch.arange(x.shape[1], device=x.device).view(-1, 1, 1)
    return x[image, channel, top + side[:, None], left + side]


def lay_out(tiles: Tensor, gap: int) -> Tensor:
    """A picture of tiles in rows, white between them.

    Args:
        tiles: (B, g * g, C, s, s) in [0, 1], in reading order.
        gap: Pixels between neighbours.

    Returns:
        (B, C, S, S) with S = g s + (g - 1) gap.
    """
    batch, count, channels, size, _ = tiles.shape
    grid, step = round(count**0.5), size + gap
    out = tiles.new_ones(batch, channels, grid * step - gap, grid * step - gap)
    for place in range(count):
        top, left = place // grid * step, place % grid * step
        out[:, :, top : top + size, left : left + size] = tiles[:, place]
    return out
