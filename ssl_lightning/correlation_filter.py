"""The correlation filter in closed form: ridge regression over all cyclic shifts of a template, by Fourier transforms.

Henriques, Caseiro, Martins, Batista, High-Speed Tracking with Kernelized Correlation Filters, 2014,
https://arxiv.org/abs/1404.7584; as a layer: Wang, Gao, Xing, Zhang, Hu, DCFNet, 2017,
https://arxiv.org/abs/1704.04057, equations 2 to 5.

Everything is computed in float32 (in float64 where it is given), under autocast too: there is no transform in bfloat16.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Filter(NamedTuple):
    """A filter in the Fourier domain, of maps (B, C, H, W).

    Args:
        template: (B, C, H, W // 2 + 1) complex: the transform of what it was fitted to.
        alpha: (B, H, W // 2 + 1) complex: the transform of the dual weights.
    """

    template: Tensor
    alpha: Tensor

    def mixed(self, new: "Filter", rate: float) -> "Filter":
        """(1 - rate) of this filter and rate of the new one."""
        return Filter(*(torch.lerp(old, other, rate) for old, other in zip(self, new, strict=True)))


def fit(template: Tensor, label: Tensor, reg: float) -> Filter:
    """The filter that answers to cyclic shifts of the template as ridge regression does.

    Args:
        template: (B, C, H, W) float.
        label: (B, H, W) or (H, W): the answer wanted at each shift.
        reg: Lambda, above 0, of the kernel divided by C H W.
    """
    with torch.autocast(template.device.type, enabled=False):
        z = torch.fft.rfft2(wide(template))
        energy = (z.real.square() + z.imag.square()).sum(1) / template[0].numel()  # (B, H, W // 2 + 1), real
        return Filter(z, torch.fft.rfft2(wide(label)) / (energy + reg))


def respond(filter: Filter, search: Tensor) -> Tensor:
    """The answers at all shifts, (B, H, W): where the content of the template has moved by d, the label moves by d.

    Args:
        filter: Of B maps, or of one for all.
        search: (B, C, H, W) float.
    """
    with torch.autocast(search.device.type, enabled=False):
        x = torch.fft.rfft2(wide(search))
        kernel = (x * filter.template.conj()).sum(1) / search[0].numel()
        return torch.fft.irfft2(filter.alpha * kernel, s=search.shape[-2:])  # else odd widths lose a column


def gaussian(height: int, width: int, sigma: float, shift: Tensor) -> Tensor:
    """Gaussian labels of height 1 around a shift, wrapped around.

    Args:
        height: H.
        width: W.
        sigma: Standard deviation in cells.
        shift: (B, 2) rows and columns, float or int.

    Returns:
        (B, H, W) float32.
    """
    sides = []
    for size, centre in ((height, shift[:, :1]), (width, shift[:, 1:])):
        cells = torch.arange(size, device=shift.device)
        distance = (cells - centre.float() + size / 2).remainder(size) - size / 2
        sides.append((-distance.square() / (2 * sigma**2)).exp())
    return sides[0][:, :, None] * sides[1][:, None, :]


def peak(response: Tensor) -> Tensor:
    """(B, H, W) -> (B, 2) int64: rows and columns by which the largest answer lies off the origin, negative ones up
    and to the left."""
    height, width = response.shape[1:]
    best = response.flatten(1).argmax(1)
    return torch.stack([centred(best // width, height), centred(best % width, width)], 1)


def centred(place: Tensor, size: int) -> Tensor:
    """Cells from the origin, wrapped around into [-size / 2, size / 2)."""
    return (place + size // 2) % size - size // 2


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
