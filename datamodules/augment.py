"""The operations of augmentation, batched on the device with a draw for each image.

Every operation is a pure function of x, float32 (B, C, H, W) in [0, 1] on any device, and of numbers per
image, small tensors on the CPU that are sent without waiting. Each equals torchvision's on one float image.
Which images an operation touches is known on the CPU, so an accelerator is never waited for. Saturation, hue
and greyscale need RGB and leave images with another number of channels as they are; contrast then uses the
plain mean.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Interpolation = Literal["bilinear", "bicubic"]
Range = tuple[float, float]
Taps = tuple[Tensor, Tensor]
CONTRAST, SATURATION, HUE = 1, 2, 3  # brightness is 0


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
    h, w = _tries(u, height * width, scale, ratio)
    size, fits = _first((w > 0) & (w <= width) & (h > 0) & (h <= height), h, w)
    central = min(max(width / height, ratio[0]), ratio[1])
    fallback = [min(height, round(width / central)), min(width, round(height * central))]
    size = torch.where(fits, size, torch.tensor(fallback, dtype=torch.float64))
    room = torch.tensor([height, width]) - size
    corner = torch.where(fits, (u[:, 20:] * (room + 1)).floor(), (room / 2).floor())
    return torch.cat([corner, size], dim=1).float()


def erased_boxes(u: Tensor, side: int, scale: Range, ratio: Range) -> Tensor:
    """Draws the boxes of torchvision's RandomErasing: ten tries, then none.

    Args:
        u: (B, 22) in [0, 1), as of `random_boxes`.
        side: Of the image in pixels.
        scale: Range of the box's share of the area.
        ratio: Range of height / width, drawn uniformly in its logarithm.

    Returns:
        (B, 4) float32 top, left, height, width: whole numbers.
    """
    u = u.double()
    w, h = _tries(u, side * side, scale, ratio)
    size, fits = _first((w < side) & (h < side), h, w)
    return torch.cat([(u[:, 20:] * (side - size + 1)).floor(), size * fits], dim=1).float()


def _tries(u: Tensor, area: int, scale: Range, ratio: Range) -> Taps:
    """The two sides (B, 10) of ten boxes each, of which the ratio divides and multiplies the square."""
    areas = area * (scale[0] + u[:, :10] * (scale[1] - scale[0]))
    low, high = torch.tensor(ratio, dtype=torch.float64).log()
    aspect = (low + u[:, 10:20] * (high - low)).exp()
    return (areas / aspect).sqrt().round(), (areas * aspect).sqrt().round()


def _first(fits: Tensor, h: Tensor, w: Tensor) -> Taps:
    """(B, 2) heights and widths of the first try that fits, and (B, 1) whether there is one."""
    first = fits.int().argmax(1, keepdim=True)
    return torch.cat([h.gather(1, first), w.gather(1, first)], dim=1), fits.any(1, keepdim=True)


def resized_crop(x: Tensor, box: Tensor, flip: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Cuts a box out of each image, resizes it with antialiasing and mirrors it.

    Args:
        box: (B, 4) top, left, height, width in whole pixels, no longer than the image. What lies outside of the
            image is black.
        flip: (B,) bool, whether to swap left and right.
        size: Side of the result in pixels.
        interpolation: bilinear, or bicubic with Pillow's a = -0.5, whose overshoot is cut to [0, 1].

    Returns:
        (B, C, size, size)
    """
    start, length = send(box, x.device).T.view(2, 2, -1, 1, 1)  # each down and across: (2, B, 1, 1)
    mirrored = send(torch.stack([torch.zeros_like(flip), flip])[..., None, None], x.device)
    place = (torch.arange(size, device=x.device) + 0.5).view(-1, 1)  # of the result
    scale = length / size
    stretch, reach = scale.clamp(min=1), 1 if interpolation == "bilinear" else 2  # the filter ends at their product
    taps = torch.arange(math.ceil(2 * reach * max(1, max(x.shape[2:]) / size)), device=x.device)

    # from the start of the box, in pixels of the source
    centre = torch.where(mirrored, size - place, place) * scale  # (2, B, size, 1)
    first = (centre - reach * stretch + 0.5).floor()
    source = first + taps  # (2, B, size, taps)
    distance = (first + 0.5 - centre + taps).div_(stretch).abs_()
    beyond = (source - torch.minimum(source.clamp(min=0), length - 1)).abs_()  # 0 in the box
    shares = _kernel(distance.add_(beyond, alpha=2), interpolation)
    shares.div_(shares.sum(3, keepdim=True))

    source.add_(start)
    inside = [s.clamp(0, side - 1) for s, side in zip(source, x.shape[2:], strict=True)]
    down, across = ((i.int(), w.masked_fill(i != s, 0)) for i, w, s in zip(inside, shares, source, strict=True))
    return _separable(x, down, across)


def _kernel(distance: Tensor, interpolation: Interpolation) -> Tensor:
    near = 1 - distance
    middle = near.clamp(min=0)
    if interpolation == "bilinear":
        return middle
    near.clamp_(min=-1)  # Keys' cubic with a = -0.5, one for both of its pieces
    return (1 - 2 * middle).mul_(middle).mul_(middle).add_((near + 1).square_().mul_(near), alpha=0.5)


def _separable(x: Tensor, down: Taps, across: Taps) -> Tensor:
    """Filters x (B, C, H, W) in the two directions: each pixel becomes a weighted sum of pixels.

    Args:
        down, across: Where these pixels lie, int32, and their weights, float32: each (B or 1, side, taps).

    Returns:
        (B, C, h, w) in [0, 1]
    """
    (rows, row_weights), (columns, column_weights) = down, across
    batch, channels, height, width = x.shape
    image = torch.arange(batch, device=x.device, dtype=torch.int32)[:, None]
    plane = torch.arange(batch * channels, device=x.device, dtype=torch.int32).view(batch, channels, 1, 1)
    x = _sums(x.reshape(-1, width), plane * height + rows[:, None], row_weights[:, None])  # (B * C * h, W)
    x = x.T.contiguous().view(width * batch, -1)  # turned, for a sum reads rows: (W * B, C * h)
    x = _sums(x, columns.transpose(0, 1) * batch + image, column_weights.transpose(0, 1))  # (w * B, C * h)
    x = x.view(columns.shape[1], -1).T.contiguous()
    return x.view(batch, channels, -1, columns.shape[1]).clamp_(0, 1)


def _sums(x: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(N, width) -> (M, width): M weighted sums of rows of x; rows: (..., taps)."""
    weights = weights.expand_as(rows).flatten(0, -2)
    return F.embedding_bag(rows.flatten(0, -2), x, mode="sum", per_sample_weights=weights)


def color_jitter(x: Tensor, drawn: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Applies the four colour operations to the drawn images, in an order of each image's own.

    Args:
        drawn: (B,) bool, the images to change.
        factors: (B, 4) for brightness, contrast, saturation (1 changes nothing), and hue in [-0.5, 0.5] turns.
        order: (B, 4) int64, each row a permutation: which of the four comes first, second, ...
    """
    place = (order == HUE).int().argmax(1, keepdim=True)
    kind = order[order != HUE].view(
        -1, 3
    )  # the blends: each comes before the hue or after it, and elsewhere does nothing
    share = (1 - factors.gather(1, kind)) * drawn[:, None] * ((kind != SATURATION) | (x.shape[1] == 3))
    before = place > torch.arange(3)
    shares = torch.cat([share * before, share * ~before], dim=1)  # (B, 6)
    towards = torch.stack([kind == CONTRAST, kind == SATURATION]).repeat(1, 1, 2)
    blends = send(torch.cat([shares[None], towards]), x.device)  # (3, B, 6)
    x = x.clone()
    for i in range(3):
        blend(x, *blends[..., i])
    _turn_hue(x, send(factors[:, HUE] * drawn, x.device))
    for i in range(3, 6):
        blend(x, *blends[..., i])
    return x


def blend(x: Tensor, share: Tensor, mean: Tensor, grey: Tensor) -> None:
    """Blends in place with `mean` times the mean luminance plus `grey` times the grey image; each (B,)."""
    luminance = _luminance(x)
    share, mean, grey = (n.view(-1, 1, 1, 1) for n in (share, mean, grey))
    mean = mean * luminance.mean((1, 2, 3), keepdim=True)
    x.lerp_(luminance.mul_(grey).add_(mean), share).clamp_(0, 1)


def _turn_hue(x: Tensor, shift: Tensor) -> None:
    """Turns the hue of HSV in place; shift: (B,) in [-0.5, 0.5] turns."""
    if x.shape[1] != 3:
        return
    r, g, b = x.unbind(1)
    value = x.amax(1)
    chroma = (value - x.amin(1)).mul_(6).clamp_(min=1e-12)  # six times, for angles in turns
    # With d = (g - b) / chroma and q = (value - r) / chroma the hue is d + sign(d) q (3 - 12 |d|).
    d, q = (g - b).div_(chroma), (value - r).div_(chroma)
    signed = q.copysign(d)
    turns = d.add_(q.mul_(d), alpha=-12).add_(signed, alpha=3)
    # Channel c loses its share of the chroma by its distance on the circle from its own complement.
    complement = (15 - 2 * torch.arange(3.0, device=x.device)).div_(6).view(3, 1, 1)  # 1/2, 1/6, -1/6 and two turns
    away = (turns[:, None] + (shift.view(-1, 1, 1, 1) + complement)).frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    most = value.add_(chroma, alpha=1 / 6)
    torch.sub(most[:, None], away.mul_(chroma[:, None]), out=x).clamp_(0, 1)


def greyscale(x: Tensor) -> Tensor:
    """The luminance of Rec. 601 in all three channels."""
    return _luminance(x).repeat(1, 3, 1, 1) if x.shape[1] == 3 else x


def gaussian_blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blurs; at the border the image is reflected.

    Args:
        sigma: (B,) standard deviations in pixels.
        kernel: Odd number of taps; kernel // 2 must be less than the side.
    """
    offset = torch.arange(kernel, device=x.device, dtype=torch.int32) - kernel // 2
    weights = (-0.5 * (offset / send(sigma, x.device)[:, None, None]) ** 2).exp()
    weights = weights / weights.sum(2, keepdim=True)  # (B, 1, kernel)

    def reflected(side: int) -> Tensor:
        place = (torch.arange(side, device=x.device, dtype=torch.int32)[:, None] + offset).abs()
        return (side - 1 - (side - 1 - place).abs())[None]

    return _separable(x, (reflected(x.shape[2]), weights), (reflected(x.shape[3]), weights))


def solarize(x: Tensor) -> Tensor:
    """Inverts what is at least as bright as 0.5."""
    return torch.minimum(x, 1 - x)


def erase(x: Tensor, box: Tensor) -> Tensor:
    """Fills a box of each image, in place, with grey: the mean, which torchvision and others fill in after normalising.

    Args:
        box: (B, 4) top, left, height, width in whole pixels; it may reach beyond the image.
    """
    top, left, height, width = send(box, x.device)[..., None].unbind(1)  # (B, 1)
    place = torch.arange(x.shape[-1], device=x.device)
    rows, columns = (place >= top) & (place < top + height), (place >= left) & (place < left + width)  # (B, S)
    return x.masked_fill_((rows[:, :, None] & columns[:, None])[:, None], 0.5)


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
    """(B, C, H, W) -> (B, 1, H, W)"""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (0.2989 * x[:, :1]).add_(x[:, 1:2], alpha=0.587).add_(x[:, 2:], alpha=0.114)


def send(numbers: Tensor, device: torch.device) -> Tensor:
    return numbers.to(device, non_blocking=True)


def on_drawn(operation: Callable[..., Tensor], x: Tensor, drawn: Tensor, *numbers: Tensor) -> Tensor:
    """Returns x with the drawn images (bool, CPU) replaced by operation(images, *numbers); writes into x."""
    rows = drawn.nonzero().squeeze(1)
    if len(rows) == 0:
        return x
    if len(rows) == len(x):
        return operation(x, *numbers)
    there = send(rows, x.device)
    return x.index_copy_(0, there, operation(x.index_select(0, there), *(n[rows] for n in numbers)))
