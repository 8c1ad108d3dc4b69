import pytest
import torch

from ssl_lightning.lab import lab_to_rgb, lightness, rgb_to_lab

# Corners of the cube and a middle grey, by http://www.brucelindbloom.com (sRGB, D65, Bradford not needed).
PUBLISHED = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (255, 255, 0): (97.14, -21.55, 94.48),
    (0, 255, 255): (91.11, -48.09, -14.13),
    (255, 0, 255): (60.32, 98.23, -60.82),
    (128, 128, 128): (53.59, 0.0, 0.0),
}


@pytest.mark.parametrize(("rgb", "lab"), PUBLISHED.items())
def test_published_values(rgb, lab):
    x = torch.tensor(rgb).view(1, 3, 1, 1) / 255
    assert rgb_to_lab(x).flatten().tolist() == pytest.approx(lab, abs=0.01)


def by_hand(rgb):
    """One colour in plain floats, from the standards' formulas."""
    linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in rgb]
    rows = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
    xyz = [sum(m * c for m, c in zip(row, linear, strict=True)) for row in rows]
    ratio = [v / w for v, w in zip(xyz, (0.95047, 1.0, 1.08883), strict=True)]
    f = [r ** (1 / 3) if r > 216 / 24389 else (24389 / 27 * r + 16) / 116 for r in ratio]
    return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]


def test_every_pixel_of_a_batch_is_converted_alone():
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    x[0, :, 0] *= 0.02  # the linear ends of both curves
    lab = rgb_to_lab(x)
    for i in range(2):
        for y in range(5):
            for column in range(7):
                expected = by_hand(x[i, :, y, column].tolist())
                assert lab[i, :, y, column].tolist() == pytest.approx(expected, abs=1e-9)
    assert torch.allclose(lightness(x), lab[:, :1])


def test_back_again():
    level = torch.linspace(0, 1, 18)
    x = torch.cartesian_prod(level, level, level).T.reshape(1, 3, 18, -1)
    assert (lab_to_rgb(rgb_to_lab(x)) - x).abs().max() < 1e-4
    assert (lab_to_rgb(rgb_to_lab(x.double())) - x.double()).abs().max() < 5e-6  # of the published matrices


def test_colours_that_no_screen_shows_are_cut():
    x = lab_to_rgb(torch.tensor([50.0, 120.0, -120.0]).view(1, 3, 1, 1))
    assert torch.isfinite(x).all()
    assert x.min() >= 0
    assert x.max() <= 1


def test_a_grey_picture_has_no_colour():
    grey = torch.linspace(0, 1, 256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert rgb_to_lab(grey)[:, 1:].abs().max() < 1e-3
