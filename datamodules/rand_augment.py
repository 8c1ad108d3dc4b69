"""RandAugment and TrivialAugment: a few of fourteen operations, drawn for each image.

Cubuk, Zoph, Shlens, Le, RandAugment: Practical Automated Data Augmentation with a Reduced Search Space, 2019,
https://arxiv.org/abs/1909.13719
Müller, Hutter, TrivialAugment: Tuning-Free Yet State-of-the-Art Data Augmentation, 2021,
https://arxiv.org/abs/2103.10158
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import equalize

from datamodules.augment import blend, on_drawn, send

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
REST = ("brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize", "identity")
OPERATIONS = (*GEOMETRIC, *REST)
STEPS = 30  # of the magnitude
Magnitude = float | Literal["random"]


@dataclass(frozen=True)
class RandAugment:
    """Applies operations to each image, each of them drawn out of all fourteen, as torchvision's classes do.

    The last of the 30 steps of magnitude shears by 0.3, shifts by 150 / 331 of the side, turns by 30 degrees, changes
    colours and sharpness by a factor of 0.1 or 1.9 and keeps 4 bits; in the ranges of TrivialAugment 0.99, 32 pixels,
    135 degrees, 0.01 or 1.99, and 2 bits. Solarizing inverts what is at least as bright as a threshold that falls from
    1 to 0. Which of the two directions is drawn. Geometric operations take the nearest pixel; outside of the image is
    black. Of images without RGB nothing happens to the colour.

    Args:
        operations: How many, one after the other.
        magnitude: In steps, of which torchvision and the paper count 30 too and timm 10. random: each image draws a
            whole number of them for each operation.
        wide: Whether the ranges are those of TrivialAugment.

    Raises:
        ValueError: a number lies outside of its range.
    """

    operations: int = 2
    magnitude: Magnitude = 9
    wide: bool = False

    def __post_init__(self) -> None:
        if self.operations < 0:
            raise ValueError(f"operations must be 0 or more, got {self.operations}")
        if self.magnitude != "random" and not 0 <= self.magnitude <= STEPS:
            raise ValueError(f"magnitude must lie in [0, {STEPS}] or be random, got {self.magnitude}")

    @property
    def draws(self) -> int:
        """Uniform numbers of an image."""
        return 3 * self.operations

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Changes x (B, C, S, S), which it may write into, by u (B, draws) on the CPU."""
        for draw in u.double().split(3, dim=1):
            which, strength, direction = draw.unbind(1)
            steps = (strength * (STEPS + 1)).floor()
            if self.magnitude != "random":
                steps = torch.full_like(steps, self.magnitude)
            x = self.apply(x, (which * len(OPERATIONS)).int(), steps, torch.where(direction < 0.5, -1.0, 1.0))
        return x

    def apply(self, x: Tensor, which: Tensor, steps: Tensor, sign: Tensor) -> Tensor:
        """One operation for each image.

        Args:
            which: (B,) places in OPERATIONS, on the CPU as the others.
            steps: (B,) float64 magnitudes.
            sign: (B,) -1 or 1.
        """
        side = x.shape[-1]
        shear, shift, turn, factor, bits = (
            (0.99, 32, 135, 0.99, 6) if self.wide else (0.3, side * 150 / 331, 30, 0.9, 4)
        )

        def are(name: str) -> Tensor:
            return which == OPERATIONS.index(name)

        most = torch.tensor([shear, shear, shift, shift, turn], dtype=torch.float64)
        amounts = steps[:, None] * most / STEPS
        amounts[:, 2:4].floor_()  # whole pixels
        amounts *= sign[:, None] * (which[:, None] == torch.arange(len(GEOMETRIC)))
        x = on_drawn(warp, x, which < len(GEOMETRIC), affine_maps(amounts, side))

        share = -factor * sign * steps / STEPS  # of what the image is blended with
        mean, grey = are("contrast"), are("color")
        towards = torch.stack([share, mean, grey], dim=1).float()
        x = on_drawn(blend_towards, x, are("brightness") | mean | (grey & (x.shape[1] == 3)), towards)
        x = on_drawn(sharpen, x, are("sharpness"), share)
        x = on_drawn(posterize, x, are("posterize"), 2.0 ** (8 - bits * steps / STEPS).round())
        x = on_drawn(invert_above, x, are("solarize"), 1 - steps / STEPS)
        x = on_drawn(autocontrast, x, are("autocontrast"))
        return on_drawn(equalize, x, are("equalize"))


def affine_maps(amounts: Tensor, side: int) -> Tensor:
    """From a place of the result to that in the image, in pixels from its middle: (B, 6), see `warp`.

    Args:
        amounts: (B, 5) float64 by the places of GEOMETRIC, at most one of an image not 0: shears, which keep the upper
            left corner, pixels and degrees.
        side: Of the image.
    """
    shear_x, shear_y, translate_x, translate_y, degrees = amounts.unbind(1)
    cos, sin = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
    right, down = shear_x * side / 2 - translate_x, shear_y * side / 2 - translate_y
    return torch.stack([cos, shear_x - sin, right, shear_y + sin, cos, down], dim=1)


def warp(x: Tensor, maps: Tensor) -> Tensor:
    """Takes for each place (right, down) the pixel at (a right + b down + c, d right + e down + f); maps: (B, 6)."""
    side = x.shape[-1]
    place = torch.arange(side, device=x.device) - (side - 1) / 2
    numbers = send(maps.float() * 2 / side, x.device).view(-1, 2, 3, 1, 1)  # in half sides
    grid = numbers[:, :, 0] * place + numbers[:, :, 1] * place[:, None] + numbers[:, :, 2]  # (B, 2, S, S)
    return F.grid_sample(x, grid.permute(0, 2, 3, 1), mode="nearest", align_corners=False)


def blend_towards(x: Tensor, numbers: Tensor) -> Tensor:
    """Blends in place: numbers (B, 3) are shares, and whether with the mean or with the grey image, else with black."""
    blend(x, *send(numbers, x.device).T)
    return x


def sharpen(x: Tensor, share: Tensor) -> Tensor:
    """Blends, in place and without its border, with a smoothed image; share: (B,)."""
    inner = x[..., 1:-1, 1:-1]
    smooth = (9 * F.avg_pool2d(x, 3, stride=1) + 4 * inner) / 13
    inner.lerp_(smooth, each(share, x)).clamp_(0, 1)
    return x


def posterize(x: Tensor, levels: Tensor) -> Tensor:
    """Keeps so many levels (B,) of brightness."""
    levels = each(levels, x)
    return torch.minimum((x * levels).floor_(), levels - 1).div_(levels)


def invert_above(x: Tensor, threshold: Tensor) -> Tensor:
    """Inverts what is at least as bright as the threshold (B,)."""
    return torch.where(x < each(threshold, x), x, 1 - x)


def autocontrast(x: Tensor) -> Tensor:
    """Stretches each channel to all of [0, 1]."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = low == high
    return (x - low.masked_fill(flat, 0)).div_((high - low).masked_fill_(flat, 1))


def each(numbers: Tensor, x: Tensor) -> Tensor:
    """A number for each image (B,), on the device of the images."""
    return send(numbers.float(), x.device).view(-1, 1, 1, 1)
