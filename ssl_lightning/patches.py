"""Images as patches: cut, put together, hidden at random, and where they lie."""

import math

import torch
from torch import Tensor


def patchify(x: Tensor, size: int) -> Tensor:
    """Cut images into squares.

    Args:
        x: (B, C, H, W), H and W multiples of ``size``.
        size: Side of a patch in pixels.

    Returns:
        (B, N, size * size * C): the patches row by row, of each its pixels row by row, of each its channels.
    """
    x = x.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (B, C, h, size, w, size)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, size: int) -> Tensor:
    """The square images (B, C, S, S) of patches (B, N, size * size * C), see `patchify`."""
    side = math.isqrt(patches.shape[1])
    x = patches.unflatten(2, (size, size, -1)).unflatten(1, (side, side))  # (B, h, w, size, size, C)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B, N, 1) of each patch over pixels and channels: the unbiased variance, 1e-6, their root."""
    return patches.mean(2, keepdim=True), (patches.var(2, keepdim=True) + 1e-6).sqrt()


def take(tokens: Tensor, places: Tensor) -> Tensor:
    """The tokens (B, n, D), out of (B, N, D), at places (B, n)."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))


def put(tokens: Tensor, places: Tensor, new: Tensor) -> Tensor:
    """The tokens (B, N, D) with new ones (B, n, D) at places (B, n)."""
    return tokens.scatter(1, places[..., None].expand_as(new), new)


def number_hidden(n: int, ratio: float) -> int:
    """How many of n are hidden: the share ``ratio``, rounded up.

    Raises:
        ValueError: none or all would be.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"mask_ratio must lie in (0, 1), got {ratio}")
    hidden = math.ceil(round(n * ratio, 6))
    if hidden == n:
        raise ValueError(
            f"mask_ratio {ratio} of {n} patches leaves none visible: lower it, or cut the image into smaller ones"
        )
    return hidden


def shuffled(u: Tensor, side: int, unit: int = 1) -> Tensor:
    """The patches of an image in random order, squares of them together.

    Args:
        u: (B, (side / unit)^2) random numbers, one a square.
        side: Patches along a side of the image.
        unit: Patches along a side of a square, a divisor of ``side``.

    Returns:
        (B, side^2) int64, each row the numbers 0 ... side^2 - 1.
    """
    grid = torch.arange(side * side).view(side // unit, unit, side // unit, unit)
    squares = grid.transpose(1, 2).flatten(2).flatten(0, 1)  # (number of squares, unit^2)
    return squares[u.argsort(dim=1, stable=True)].flatten(1)


def sincos_positions(dim: int, side: int) -> Tensor:
    """Fixed positions of a class token, zeros, and of side x side patches: (1, 1 + side^2, dim) float32.

    Of a patch in column w and row h: sin and cos of w, then of h, each at dim / 4 frequencies from 1 to nearly 1/10000;
    MAE's order, which is not timm's.

    Raises:
        ValueError: ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sine and cosine of two coordinates need a width that is a multiple of 4, got {dim}")
    omega = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angle = torch.arange(side)[:, None] * omega
    one = torch.cat([angle.sin(), angle.cos()], 1)  # (side, dim / 2)
    table = torch.cat([one[None].expand(side, -1, -1), one[:, None].expand(-1, side, -1)], 2).flatten(0, 1)
    return torch.cat([torch.zeros(1, dim), table])[None].float()
