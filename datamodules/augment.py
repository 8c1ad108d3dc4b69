"""The operations of augmentation, batched on the device with a draw for each image.

Every operation is a pure function of x, float32 (B, C, H, W) in [0, 1] on any device, and of numbers per
image, small tensors on the CPU that are sent without waiting. Each equals torchvision's on one float image.
Which images an operation touches is known on the CPU, so an accelerator is never waited for. Saturation, hue
and greyscale need RGB and leave images with another number of channels as they are; contrast then uses the
plain mean. Matrix products follow `torch.set_float32_matmul_precision`: an accelerator may round views below
"highest".
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Interpolation = Literal["bilinear", "bicubic"]
Range = tuple[float, float]


def random_boxes(u: Tensor, height: int, width: int, scale: Range, ratio: Range) -> Tensor:
    """Draws the boxes of torchvision's RandomResizedCrop: ten tries, then the largest central crop.

    Args:
        u: (B, 22) in [0, 1): ten areas, ten ratios, place down, place across.
        height, width: Size of the image in pixels.
        scale: Range of the crop's share of the area.
        ratio: Range of width / height, drawn uniformly in its logarithm.

    Returns:
        (B, 4) float32 top, left, height, width: whole numbers.
    """
    u = u.double()
    area = height * width * (scale[0] + u[:, :10] * (scale[1] - scale[0]))
    low, high = torch.tensor(ratio, dtype=torch.float64).log()
    aspect = (low + u[:, 10:20] * (high - low)).exp()
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (B, 10)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    central = min(max(width / height, ratio[0]), ratio[1])
    fallback = [min(height, round(width / central)), min(width, round(height * central))]
    size = torch.cat([h.gather(1, first), w.gather(1, first)], dim=1)
    size = torch.where(fits.any(1, keepdim=True), size, torch.tensor(fallback, dtype=torch.float64))
    room = torch.tensor([height, width]) - size
    corner = torch.where(fits.any(1, keepdim=True), (u[:, 20:] * (room + 1)).floor(), (room / 2).floor())
    return torch.cat([corner, size], dim=1).float()


def resized_crop(x: Tensor, box: Tensor, flip: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Cuts a box out of each image, resizes it with antialiasing and mirrors it: two batched matrix products.

    Args:
        box: (B, 4) top, left, height, width in whole pixels. What lies outside of the image is black.
        flip: (B,) bool, whether to swap left and right.
        size: Side of the result in pixels.
        interpolation: bilinear, or bicubic with Pillow's a = -0.5, whose overshoot is cut to [0, 1].

    Returns:
        (B, C, size, size)
    """
    top, left, height, width = _send(box, x.device)[:, :, None, None].unbind(1)
    place = torch.arange(size, device=x.device)[:, None] + 0.5  # of the result, (size, 1)
    mirrored = torch.where(_send(flip, x.device)[:, None, None], size - place, place)
    rows = _weights(place, top, height, size, x.shape[2], interpolation)
    columns = _weights(mirrored, left, width, size, x.shape[3], interpolation)
    return _separable(rows, x, columns)


def _separable(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows (B, h, H) times x (B, C, H, W) times columns (B, w, W) transposed: (B, C, h, w) in [0, 1]."""
    wide = (x.flatten(1, 2) @ columns.mT).view(*x.shape[:3], -1)
    return torch.einsum("bhy,bcyw->bchw", rows, wide).contiguous().clamp_(0, 1)


def _weights(
    place: Tensor, start: Tensor, length: Tensor, size: int, side: int, interpolation: Interpolation
) -> Tensor:
    """(B, size, side): row i holds the share of each source pixel in pixel i of the resized interval."""
    scale = length / size  # (B, 1, 1)
    source = torch.arange(side, device=place.device) + 0.5 - start  # from the start of the box, (B, 1, side)
    t = (source - place * scale).div_(scale.clamp(min=1)).abs_().clamp_(max=2)
    t.masked_fill_((source < 0) | (source > length), 2)  # both filters end before 2
    if interpolation == "bilinear":
        weights = (1 - t).clamp_(min=0)
    else:
        near = (1.5 * t).sub_(2.5).mul_(t).mul_(t).add_(1)
        far = (-0.5 * t).add_(2.5).mul_(t).sub_(4).mul_(t).add_(2)
        weights = torch.where(t < 1, near, far)
    return weights.div_(weights.sum(2, keepdim=True).clamp_(min=1e-6))  # a row of zeros stays black


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Blends with black; factor: (B,), 1 changes nothing."""
    return (x * _column(factor, x)).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blends with the mean luminance of each image; factor: (B,), 1 changes nothing."""
    factor = _column(factor, x)
    mean = (_luminance(x) if x.shape[1] == 3 else x).flatten(1).mean(1).view(-1, 1, 1, 1)
    return (x * factor).add_(mean * (1 - factor)).clamp_(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blends with the grey image; factor: (B,), 1 changes nothing."""
    if x.shape[1] != 3:
        return x
    factor = _column(factor, x)
    return (x * factor).add_(_luminance(x) * (1 - factor)).clamp_(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of HSV; shift: (B,) in [-0.5, 0.5] turns, 0 changes nothing."""
    if x.shape[1] != 3:
        return x
    r, g, b = x.unbind(1)
    value = torch.maximum(torch.maximum(r, g), b)
    chroma = value - torch.minimum(torch.minimum(r, g), b)
    is_r = (r - value).sign_().add_(1)  # 1 or 0: on a CPU far faster than torch.where
    is_g = (g - value).sign_().add_(1).mul_(1 - is_r)
    is_b = 1 - is_r - is_g
    sector = is_r * (g - b) + is_g * (b - r) + is_b * (r - g)
    sector = sector.div_(chroma.clamp(min=1e-12)) + 2 * is_g + 4 * is_b  # sixths of a turn; grey: 0 / 1e-12
    # Channel c loses its share of the chroma by its distance on the circle from its own complement.
    complement = (3 - 2 * torch.arange(3.0, device=x.device)).view(3, 1, 1)  # of r, g, b: 3, 1, -1
    turns = (sector[:, None] + complement).div_(6).add_(_column(shift, x))
    away = turns.sub_(turns.round()).abs_()  # in turns, [0, 0.5]
    return value[:, None] - chroma[:, None] * away.mul_(-6).add_(2).clamp_(0, 1)


def color_jitter(x: Tensor, drawn: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Applies the four colour operations to the drawn images, in an order of each image's own.

    Args:
        drawn: (B,) bool, the images to change.
        factors: (B, 4) for brightness, contrast, saturation, hue.
        order: (B, 4) int64, each row a permutation: which of the four comes first, second, ...
    """
    x = x.clone()
    for place in range(4):
        for number, operation in enumerate((brightness, contrast, saturation, hue)):
            x = on_drawn(operation, x, drawn & (order[:, place] == number), factors[:, number])
    return x


def greyscale(x: Tensor) -> Tensor:
    """The luminance of Rec. 601 in all three channels."""
    return _luminance(x).expand_as(x) if x.shape[1] == 3 else x


def gaussian_blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blurs by two batched products with banded matrices, which fold the reflection at the border in.

    Args:
        sigma: (B,) standard deviations in pixels.
        kernel: Odd number of taps; kernel // 2 must be less than the side.
    """
    offset = torch.arange(kernel, device=x.device) - kernel // 2
    taps = (-0.5 * (offset / _send(sigma, x.device)[:, None]) ** 2).exp()
    taps = taps / taps.sum(1, keepdim=True)  # (B, kernel)

    def banded(side: int) -> Tensor:
        pixels = torch.eye(side, device=x.device)[None]
        padded = F.pad(pixels, (kernel // 2, kernel // 2), mode="reflect")[0]  # column p: the pixel at place p
        return torch.einsum("bk,jik->bij", taps, padded.unfold(1, kernel, 1))

    rows = banded(x.shape[2])
    columns = rows if x.shape[2] == x.shape[3] else banded(x.shape[3])
    return _separable(rows, x, columns)


def solarize(x: Tensor) -> Tensor:
    """Inverts what is at least as bright as 0.5."""
    return torch.minimum(x, 1 - x)


def center_crop(image: Tensor, size: int) -> Tensor:
    """The plain view of evaluation: cuts the central square, or enlarges an image that is smaller than it.

    Args:
        image: (B, C, S, S) uint8.
        size: Side of the result in pixels.

    Returns:
        (B, C, size, size) float32 in [0, 1], contiguous.
    """
    x = image.to(torch.float32) / 255
    side = x.shape[-1]
    if side < size:
        return F.interpolate(x, (size, size), mode="bilinear", antialias=True).clamp_(0, 1)
    start = round((side - size) / 2)
    return x[..., start : start + size, start : start + size].contiguous()


def _luminance(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)"""
    return 0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def _send(numbers: Tensor, device: torch.device) -> Tensor:
    return numbers.to(device, non_blocking=True)


def _column(numbers: Tensor, x: Tensor) -> Tensor:
    return _send(numbers, x.device).view(-1, 1, 1, 1)


def on_drawn(operation: Callable[..., Tensor], x: Tensor, drawn: Tensor, *numbers: Tensor) -> Tensor:
    """Returns x with the drawn images (bool, CPU) replaced by operation(images, *numbers); writes into x."""
    rows = drawn.nonzero().squeeze(1)
    if len(rows) == 0:
        return x
    there = _send(rows, x.device)
    return x.index_copy_(0, there, operation(x.index_select(0, there), *(n[rows] for n in numbers)))
