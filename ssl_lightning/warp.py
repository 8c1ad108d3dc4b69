"""Affine and projective transformations of images: drawn, as numbers to predict, as matrices, and applied.

A matrix (3, 3) takes homogeneous places (x, y, 1) of the transformed image to places of the image, in pixels: the image
covers [0, W] x [0, H] and the first pixel's centre is (0.5, 0.5), as Pillow's ``Image.transform`` has it.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.draws import uniform


class Affine:
    """Turns, shifts, scales and shears about the image's centre, as the CIFAR-10 experiments of AET do.

    The six numbers lie in [-1, 1]: cosine and sine of the angle, shift across and down / (0.2 side), (scale - 1) / 0.3,
    shear / 30 degrees. Angle from [-180, 180] degrees, shift from 0.2 sides either way in whole pixels, scale from
    [0.7, 1.3], shear from [-30, 30] degrees; each uniform. The authors' centre lies half a pixel right of and below it.

    Args:
        size: Side of the images in pixels.
    """

    dim = 6  # numbers to predict
    draws = 5  # uniform numbers that a transformation takes

    def __init__(self, size: int) -> None:
        self.size = size

    def draw(self, u: Tensor) -> Tensor:
        """(B, draws) uniform on [0, 1) -> (B, dim) float64 numbers to predict."""
        angle, across, down, scale, shear = (2 * u.double() - 1).unbind(1)
        reach = 0.2 * self.size
        across, down = ((reach * shift).round() / reach for shift in (across, down))
        return torch.stack([(math.pi * angle).cos(), (math.pi * angle).sin(), across, down, scale, shear], dim=1)

    def matrix(self, numbers: Tensor) -> Tensor:
        """(B, dim) -> (B, 3, 3) of their dtype.

        The shear is an angle within the rotation, scale [[cos a, -sin(a + s)], [sin a, cos(a + s)]], as torchvision had
        it in 2019; today's keeps the area.
        """
        cos, sin, across, down, scale, shear = numbers.unbind(1)
        angle, scale = torch.atan2(sin, cos), 1 + 0.3 * scale
        turned = angle + math.radians(30) * shear
        a, b, c, d = scale * angle.cos(), -scale * turned.sin(), scale * angle.sin(), scale * turned.cos()
        centre, reach = self.size / 2, 0.2 * self.size
        x = centre + reach * across - (a + b) * centre  # where the corner (0, 0) goes
        y = centre + reach * down - (c + d) * centre
        zero, one = torch.zeros_like(a), torch.ones_like(a)
        return torch.linalg.inv(torch.stack([a, b, x, c, d, y, zero, zero, one], dim=1).view(-1, 3, 3))


class Projective:
    """Moves the four corners, as AET does: scales them about the centre by [0.8, 1.2], turns them by 0, 90, 180 or 270
    degrees, then shifts each coordinate by up to an eighth of the side, in whole pixels; each uniform.

    The eight numbers are the coefficients a, b, ..., h of the matrix [[a, b, c], [d, e, f], [g, h, 1]], less their mean
    and divided by a standard deviation.

    Args:
        size: Side of the images in pixels.
        true_std: Divide by the standard deviation of the coefficients (measured on 32,768 draws), and not by the
            authors' numbers. For ImageNet (here: above 64 px) theirs are nearly the true ones, but for CIFAR-10 they
            are rounded up, g and h by a factor of 2.5, so that these two weigh a sixth in the loss.
    """

    dim = 8
    draws = 10

    def __init__(self, size: int, true_std: bool = False) -> None:
        self.size = size
        side, inverse = float(size), 1 / size
        if true_std:
            coefficients = self.coefficients(uniform(torch.arange(2**15), self.draws))
            self.mean, self.std = coefficients.mean(0), coefficients.std(0)
        elif size <= 64:  # the authors' (0, 0, 16, ...) and (1, 1, 20, ..., 0.015, 0.015) at 32 px
            self.mean = torch.tensor([0, 0, side / 2, 0, 0, side / 2, 0, 0], dtype=torch.float64)
            x, p = 20 / 32 * side, 0.015 * 32 * inverse
            self.std = torch.tensor([1, 1, x, 1, 1, x, p, p], dtype=torch.float64)
        else:  # theirs at 224 px
            x, p = side / 2, 6.4e-5 * 224 * inverse
            self.mean = torch.tensor([0, 0, x, 0, 0, x, p, p], dtype=torch.float64)
            x, p = 118 / 224 * side, 7.75e-4 * 224 * inverse
            self.std = torch.tensor([0.75, 0.75, x, 0.75, 0.75, x, p, p], dtype=torch.float64)

    def draw(self, u: Tensor) -> Tensor:
        """(B, draws) uniform on [0, 1) -> (B, dim) float64 numbers to predict."""
        return (self.coefficients(u) - self.mean) / self.std

    def matrix(self, numbers: Tensor) -> Tensor:
        """(B, dim) on the CPU -> (B, 3, 3) float64."""
        return F.pad(numbers * self.std + self.mean, (0, 1), value=1).view(-1, 3, 3)

    def coefficients(self, u: Tensor) -> Tensor:
        """(B, draws) uniform on [0, 1) -> (B, 8) float64."""
        scale, turn, shift = u.double().split((1, 1, 8), dim=1)
        corners = self.size * torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
        centre, reach = self.size / 2, round(self.size / 8)
        scaled = (corners - centre) * (0.8 + 0.4 * scale[:, :, None]) + centre  # (B, 4, 2)
        places = (torch.arange(4) + (4 * turn).floor().long()) % 4  # (B, 4)
        turned = scaled.gather(1, places[:, :, None].expand(-1, -1, 2))
        moved = turned + ((2 * reach + 1) * shift).floor().view(-1, 4, 2) - reach
        return homography(moved, corners.expand_as(moved))


def homography(source: Tensor, target: Tensor) -> Tensor:
    """The projective transformation that takes four points to four points.

    Args:
        source: (B, 4, 2) float x, y, no three on a line.
        target: (B, 4, 2) float x, y.

    Returns:
        (B, 8) a, ..., h: x' = (a x + b y + c) / (g x + h y + 1), y' = (d x + e y + f) / (g x + h y + 1).
    """
    here = F.pad(source, (0, 1), value=1)  # (B, 4, 3)
    none = torch.zeros_like(here)
    x = torch.cat([here, none, -target[..., :1] * source], dim=2)  # (B, 4, 8)
    y = torch.cat([none, here, -target[..., 1:] * source], dim=2)
    return torch.linalg.solve(torch.cat([x, y], dim=1), torch.cat([target[..., 0], target[..., 1]], dim=1)).contiguous()


def warp(x: Tensor, matrix: Tensor, fill: float = 128 / 255) -> Tensor:
    """Transforms each image by its matrix, bilinearly: Pillow's ``Image.transform`` on a batch.

    Args:
        x: (B, C, H, W) float.
        matrix: (B, 3, 3) from places of the result to places of x, on any device: sent without waiting.
        fill: The value of what lies outside of the image; AET's grey.

    Returns:
        (B, C, H, W) of the dtype of x.
    """
    height, width = x.shape[2:]
    side = torch.tensor([width, height], dtype=torch.float32)
    y = torch.arange(height, dtype=torch.float32, device=x.device)[:, None] + 0.5
    x_ = torch.arange(width, dtype=torch.float32, device=x.device) + 0.5
    m = matrix.float().to(x.device, non_blocking=True)[:, :, :, None, None]  # (B, 3, 3, 1, 1)
    with torch.autocast(x.device.type, enabled=False):
        # no matrix product: an accelerator may round it to a tenth of a pixel
        place = m[:, :, 0] * x_ + m[:, :, 1] * y + m[:, :, 2]  # (B, 3, H, W)
        place = place[:, :2] / place[:, 2:]
        sides = side.to(x.device, non_blocking=True).view(2, 1, 1)
        inside = ((place >= 0) & (place < sides)).all(1, keepdim=True)
        grid = (2 * place / sides - 1).permute(0, 2, 3, 1)
        moved = F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
    return torch.where(inside, moved, fill).to(x.dtype)
