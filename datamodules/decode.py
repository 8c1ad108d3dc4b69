"""From an image file to a square of pixels."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

# what Pillow raises on broken files, by format
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)

_MODES = {1: "L", 3: "RGB"}
GREY = 114  # about the mean of photographs
_NOT_PICTURES = {"MPEG", "HDF5", "GRIB", "BUFR"}  # recognised by Pillow, but not decoded


def readable_extensions() -> set[str]:
    """Extensions, in lower case and with the dot, of the image files that Pillow reads."""
    known = Image.registered_extensions()
    return {end for end, kind in known.items() if kind in Image.OPEN and kind not in _NOT_PICTURES}


def read_image(file: Path | bytes, store_size: int, in_channels: int) -> np.ndarray:
    """The middle square of an image, as large as possible, at `store_size`.

    The orientation that a camera recorded is applied; transparency is dropped; 16-bit greys keep their upper
    8 bits. The pixels of an image whose short side is `store_size` already are not touched. Others are
    resampled (bilinear, antialiased).

    Args:
        file: The file, or what it holds.
        store_size: Side of the square, in pixels.
        in_channels: 1 (grey) or 3 (colour).

    Returns:
        (in_channels, store_size, store_size) uint8.
    """
    mode = _MODES[in_channels]
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    # Pillow warns of odd metadata in files that it reads all the same
    with warnings.catch_warnings(action="ignore"), Image.open(source) as image:
        whole = None
        if image.format == "JPEG" and min(image.size) < 4 * store_size:  # else draft has something to skip
            whole = _jpeg(file, image, in_channels)
        if whole is None:
            image.draft(mode, (2 * store_size, 2 * store_size))  # skip detail that resampling would drop
            ImageOps.exif_transpose(image, in_place=True)
            whole = _pixels(_to_mode(image, mode))
    return _square(whole, store_size).numpy()


def letterbox_scale(width: int, height: int, size: int) -> tuple[float, float]:
    """What x and y of an image are multiplied by where it is resized to fit into a square."""
    longer = max(width, height)
    return max(1, round(width * size / longer)) / width, max(1, round(height * size / longer)) / height


def read_letterboxed(file: Path, size: int, in_channels: int) -> tuple[Tensor, tuple[int, int]]:
    """A whole image, resized until it fits into a square and laid into its upper left corner on grey, as it is stored:
    the orientation that a camera recorded is not applied.

    Args:
        file: The file.
        size: Side of the square, in pixels.
        in_channels: 1 (grey) or 3 (colour).

    Returns:
        (in_channels, size, size) uint8, and the width and height of the image in the file.
    """
    mode = _MODES[in_channels]
    with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
        width, height = image.size
        image.draft(mode, (2 * size, 2 * size))  # skip detail that resampling would drop
        pixels = _pixels(_to_mode(image, mode))
    x_scale, y_scale = letterbox_scale(width, height, size)
    small = (round(height * y_scale), round(width * x_scale))
    if pixels.shape[1:] != small:
        pixels = F.interpolate(pixels[None], small, mode="bilinear", antialias=True)[0]
    return F.pad(pixels, (0, size - small[1], 0, size - small[0]), value=GREY), (width, height)


def _jpeg(file: Path | bytes, image: Image.Image, in_channels: int) -> Tensor | None:
    """The pixels by torchvision, in three quarters of Pillow's time; None of what only Pillow reads or turns."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None
    content = file if isinstance(file, bytes) else file.read_bytes()
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        return decode_jpeg(data, ImageReadMode.RGB if in_channels == 3 else ImageReadMode.GRAY)
    except RuntimeError:
        return None


def _pixels(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, -1).permute(2, 0, 1)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # Pillow's own conversion cuts 16 bits off at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)  # which would copy


def _square(image: Tensor, size: int) -> Tensor:
    _, height, width = image.shape
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[:, top : top + side, left : left + side]
    if side == size:
        return middle
    # as Pillow's bilinear within a level, in a third of its time
    return F.interpolate(middle[None], (size, size), mode="bilinear", antialias=True)[0]
