"""CIE 1976 L*a*b* of sRGB images under the white D65, batched, both ways.

IEC 61966-2-1 (sRGB); CIE 15 (Lab); the matrix is that of http://www.brucelindbloom.com, whose rows add up to the white.
"""

import torch
from torch import Tensor

WHITE = (0.95047, 1.0, 1.08883)
TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
TO_RGB = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
EPSILON, KAPPA = 216 / 24389, 24389 / 27  # where the cube root ends, and the slope below


def rgb_to_lab(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, 3, H, W) with L in [0, 100], a in [-86.2, 98.3] and b in [-107.9, 94.5]."""
    x, y, z = (_f(channel / white) for channel, white in zip(_mix(TO_XYZ, _linear(x)), WHITE, strict=True))
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lightness(x: Tensor) -> Tensor:
    """L of rgb_to_lab alone: (B, 3, H, W) in [0, 1] -> (B, 1, H, W) in [0, 100]."""
    (y,) = _mix(TO_XYZ[1:2], _linear(x))
    return 116 * _f(y)[:, None] - 16


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of rgb_to_lab; colours that a screen cannot show are cut to [0, 1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    xyz = [white * _inverse_f(f) for white, f in zip(WHITE, (y + a / 500, y, y - b / 200), strict=True)]
    rgb = torch.stack(_mix(TO_RGB, torch.stack(xyz, dim=1)), dim=1).clamp(0, 1)
    return torch.where(rgb > 0.0031308, 1.055 * rgb.pow(1 / 2.4) - 0.055, 12.92 * rgb)


def _linear(x: Tensor) -> Tensor:
    return torch.where(x > 0.04045, ((x + 0.055) / 1.055).pow(2.4), x / 12.92)


def _f(t: Tensor) -> Tensor:
    return torch.where(t > EPSILON, t.pow(1 / 3), (KAPPA * t + 16) / 116)


def _inverse_f(f: Tensor) -> Tensor:
    return torch.where(f**3 > EPSILON, f**3, (116 * f - 16) / KAPPA)


def _mix(matrix: tuple[tuple[float, ...], ...], x: Tensor) -> list[Tensor]:
    """Rows of the matrix times the channels of x: written out, for an accelerator may round matrix products."""
    p, q, r = x.unbind(1)
    return [row[0] * p + row[1] * q + row[2] * r for row in matrix]
