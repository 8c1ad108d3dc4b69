import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from datamodules.decode import UNREADABLE, read_image, readable_extensions


def gradient(width, height):
    """RGB: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), 0 * x], -1).astype(np.uint8)


def test_pixels_of_the_stored_size_are_not_touched(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(32, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", 32, 3), pixels[:, 4:36].transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height"), [(200, 100), (90, 160), (20, 12)])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_the_middle_square_is_resampled_to_the_stored_size(tmp_path, width, height, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(gradient(width, height)).save(path, quality=95)
    red, green, _ = read_image(path, 24, 3).astype(int)
    side = min(width, height)
    margin_x, margin_y = (width - side) / 2 / width * 255, (height - side) / 2 / height * 255
    centre = (np.arange(24) + 0.5) / 24
    # an enlarged edge is flat over half a pixel of the original
    assert np.abs(red.mean(0) - (margin_x + centre * side / width * 255)).max() < 12
    assert np.abs(green.mean(1) - (margin_y + centre * side / height * 255)).max() < 12


@pytest.mark.parametrize("size", [24, 61, 150])
@pytest.mark.parametrize("channels", [1, 3])
def test_resampling_is_pillows(tmp_path, size, channels):
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(90, 131, 3), dtype=np.uint8))
    noise.save(tmp_path / "a.png")
    square = noise.convert("L" if channels == 1 else "RGB").crop((20, 0, 110, 90))
    pillows = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)
    assert np.abs(read_image(tmp_path / "a.png", size, channels).astype(int) - pillows.transpose(2, 0, 1)).max() <= 1


def photo(width, height):
    """Smooth with some texture, as JPEG expects it."""
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(12, 12, 3), dtype=np.uint8))
    return noise.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("size", [(96, 64), (700, 500)])
def test_jpegs_are_read_as_by_pillow(tmp_path, mode, channels, turn, size):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    colours = photo(*size)
    if mode == "CMYK":
        saved = Image.merge("CMYK", [*colours.split(), colours.getchannel(0).rotate(180)])
    else:
        saved = colours.convert(mode)
    saved.save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        whole = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    left, top = (whole.width - min(size)) // 2, (whole.height - min(size)) // 2
    square = whole.resize((64, 64), Image.Resampling.BILINEAR, (left, top, left + min(size), top + min(size)))
    pillows = np.asarray(square).reshape(64, 64, channels).transpose(2, 0, 1)
    assert np.abs(read_image(tmp_path / "a.jpg", 64, channels).astype(int) - pillows).mean() < 1


def test_a_cut_jpeg_is_unreadable(tmp_path):
    path = tmp_path / "a.jpg"
    photo(96, 64).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UNREADABLE, match="truncated"):
        read_image(path, 64, 3)


def test_a_large_jpeg_decoded_small_is_close_to_the_whole_one(tmp_path):
    smooth = photo(1024, 1024)
    smooth.save(tmp_path / "a.jpg", quality=95)
    whole = np.asarray(smooth.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(read_image(tmp_path / "a.jpg", 64, 3).astype(int) - whole).max() <= 6


def test_the_cameras_orientation_is_applied(tmp_path):
    turned = Image.fromarray(gradient(16, 16)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90 degrees clockwise
    turned.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png", 16, 3), gradient(16, 16).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_pixel_becomes_grey_or_colour(tmp_path, mode, channels):
    image = Image.new("I;16", (8, 8), 200 * 257) if mode == "I;16" else Image.new("L", (8, 8), 255).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    pixels = read_image(path, 8, channels)
    assert pixels.shape == (channels, 8, 8)
    assert (pixels == (200 if mode == "I;16" else 255)).all()


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert read_image(tmp_path / "a.png", 8, 3)[:, 0, 0].tolist() == [255, 0, 0]


def test_floating_point_pixels_are_refused(tmp_path):
    Image.new("F", (8, 8)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floating-point"):
        read_image(tmp_path / "a.tif", 8, 1)


def test_pictures_are_readable_and_videos_are_not():
    assert {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".ppm"} <= readable_extensions()
    assert not {".mpg", ".pdf", ".h5"} & readable_extensions()
