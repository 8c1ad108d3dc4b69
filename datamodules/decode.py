"""From an image file to a square of pixels."""

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

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
_NOT_PICTURES = {"MPEG", "HDF5", "GRIB", "BUFR"}  # recognised by Pillow, but not decoded


def readable_extensions() -> set[str]:
    """Extensions, in lower case and with the dot, of the image files that Pillow reads."""
    known = Image.registered_extensions()
    return {end for end, kind in known.items() if kind in Image.OPEN and kind not in _NOT_PICTURES}


def read_image(path: Path, store_size: int, in_channels: int) -> np.ndarray:
    """The middle square of an image, as large as possible, at `store_size`.

    The orientation that a camera recorded is applied; transparency is dropped; 16-bit greys keep their upper
    8 bits. The pixels of an image whose short side is `store_size` already are not touched. Others are
    resampled (bilinear, antialiased).

    Args:
        path: The file.
        store_size: Side of the square, in pixels.
        in_channels: 1 (grey) or 3 (colour).

    Returns:
        (in_channels, store_size, store_size) uint8.
    """
    mode = _MODES[in_channels]
    # Pillow warns of odd metadata in files that it reads all the same
    with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
        image.draft(mode, (2 * store_size, 2 * store_size))  # JPEG: skip detail that resampling would drop
        ImageOps.exif_transpose(image, in_place=True)
        square = _square(_to_mode(image, mode), store_size)
    pixels = np.asarray(square).reshape(store_size, store_size, in_channels)
    return pixels.transpose(2, 0, 1)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # Pillow's own conversion cuts 16 bits off at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert(mode)


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    if side == size:
        return image.crop(box)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
