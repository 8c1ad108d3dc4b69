import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as V

from datamodules.draws import uniform
from ssl_lightning.warp import Affine, Projective, homography, warp

FILL = 128 / 255


def pil(x, method, coefficients):
    """One float image (C, H, W) through Pillow, channel by channel, without rounding."""
    size = (x.shape[2], x.shape[1])
    channels = [
        Image.fromarray(c.numpy()).transform(size, method, coefficients, Image.Resampling.BILINEAR, fillcolor=FILL)
        for c in x
    ]
    return torch.from_numpy(np.stack([np.asarray(c) for c in channels]))


def close(warped, oracle):
    """Equal but for pixels whose place lies on the border, which rounding puts inside or outside."""
    differ = (warped - oracle).abs() > 1e-3
    assert differ.float().mean() < 0.002
    assert not torch.equal(oracle, torch.full_like(oracle, FILL))


@pytest.mark.parametrize("size", [32, 25])
def test_affine_warp_is_pillow_s(size):
    x, family = torch.rand(8, 3, size, size), Affine(size)
    matrix = family.matrix(family.draw(uniform(torch.arange(8), family.draws)))
    warped = warp(x, matrix)
    for image, m, ours in zip(x, matrix, warped, strict=True):
        close(ours, pil(image, Image.Transform.AFFINE, m.flatten()[:6].tolist()))


@pytest.mark.parametrize("size", [32, 25])
def test_projective_warp_is_pillow_s(size):
    x, family = torch.rand(8, 3, size, size), Projective(size)
    matrix = family.matrix(family.draw(uniform(torch.arange(8), family.draws)))
    warped = warp(x, matrix)
    for image, m, ours in zip(x, matrix, warped, strict=True):
        close(ours, pil(image, Image.Transform.PERSPECTIVE, m.flatten()[:8].tolist()))


def test_an_image_need_not_be_square():
    x = torch.rand(1, 1, 12, 20)
    matrix = torch.tensor([[[0.9, 0.2, 1.0], [-0.1, 1.1, 0.5], [0.001, 0.002, 1.0]]])
    close(warp(x, matrix)[0], pil(x[0], Image.Transform.PERSPECTIVE, matrix.flatten()[:8].tolist()))


@pytest.mark.parametrize(("angle", "across", "down", "scale"), [(30, 3, -2, 0.8), (-160, 0, 6, 1.25), (90, -1, 0, 1)])
def test_without_shear_the_affine_family_is_torchvision_s(angle, across, down, scale):
    x, family = torch.rand(1, 3, 32, 32), Affine(32)
    a = math.radians(angle)
    numbers = [math.cos(a), math.sin(a), across / 6.4, down / 6.4, (scale - 1) / 0.3, 0]
    warped = warp(x, family.matrix(torch.tensor([numbers], dtype=torch.float64)))
    image = V.to_pil_image(x[0])
    theirs = V.affine(image, angle, [across, down], scale, [0, 0], V.InterpolationMode.BILINEAR, fill=[128] * 3)
    differ = (warped[0] - V.to_dtype(V.pil_to_tensor(theirs), scale=True)).abs() > 2 / 255  # Pillow rounds to 8 bits
    assert differ.float().mean() < 0.005


def test_the_shear_is_an_angle_within_the_rotation():
    """The matrix from image to warped image, written as a loop over the definition."""
    family = Affine(32)
    numbers = family.draw(uniform(torch.arange(5), family.draws))
    for row, matrix in zip(numbers.tolist(), family.matrix(numbers), strict=True):
        a, shear, s = math.atan2(row[1], row[0]), math.radians(30 * row[5]), 1 + 0.3 * row[4]
        for x, y in [(0, 0), (32, 0), (5, 20)]:
            u, v = x - 16, y - 16
            there = [
                s * (math.cos(a) * u - math.sin(a + shear) * v) + 16 + 6.4 * row[2],
                s * (math.sin(a) * u + math.cos(a + shear) * v) + 16 + 6.4 * row[3],
            ]
            back = matrix @ torch.tensor([*there, 1], dtype=torch.float64)
            assert back.tolist() == pytest.approx([x, y, 1])


def test_affine_numbers_are_the_paper_s():
    family = Affine(32)
    numbers = family.draw(uniform(torch.arange(20_000), family.draws))
    assert numbers.dtype == torch.float64
    assert numbers.abs().max() <= 1
    assert torch.allclose(numbers[:, :2].square().sum(1), torch.ones(20_000, dtype=torch.float64))
    pixels = 6.4 * numbers[:, 2:4]
    torch.testing.assert_close(pixels, pixels.round())
    assert pixels.abs().max().item() == pytest.approx(6)
    variances = torch.tensor([0.5, 0.5, 0.334, 0.334, 0.333, 0.333], dtype=torch.float64)
    torch.testing.assert_close(numbers.square().mean(0), variances, rtol=0, atol=0.01)
    assert numbers.square().mean().item() == pytest.approx(0.389, abs=0.003)


def test_projective_draws_move_the_corners_as_the_paper_says():
    family = Projective(32)
    u = uniform(torch.arange(2000), family.draws)
    inverse = torch.linalg.inv(family.matrix(family.draw(u)))
    corners = torch.tensor([[0, 0, 1], [32, 0, 1], [32, 32, 1], [0, 32, 1]], dtype=torch.float64)
    moved = torch.einsum("bij,kj->bki", inverse, corners)
    moved = moved[..., :2] / moved[..., 2:]  # (B, 4, 2) where the corners of the image go
    scale, turn = 0.8 + 0.4 * u[:, 0].double(), (4 * u[:, 1]).long()
    for b in range(len(u)):
        scaled = 16 + scale[b] * (corners[:, :2] - 16)
        shift = moved[b] - scaled.roll(-int(turn[b]), 0)
        torch.testing.assert_close(shift, shift.round(), rtol=0, atol=1e-6)
        assert shift.abs().max() < 4.001
    assert set(turn.tolist()) == {0, 1, 2, 3}


def test_a_homography_takes_point_to_point():
    source, target = (torch.tensor([[[0, 0], [1, 0], [1, 1], [0, 1]]]) + 0.3 * torch.rand(2, 6, 4, 2)).double()
    a, b, c, d, e, f, g, h = homography(source, target).T[:, :, None]
    x, y = source.unbind(2)
    torch.testing.assert_close((a * x + b * y + c) / (g * x + h * y + 1), target[..., 0])
    torch.testing.assert_close((d * x + e * y + f) / (g * x + h * y + 1), target[..., 1])


@pytest.mark.parametrize(
    ("size", "mean_square", "true"),
    [(32, 0.512, (0.763, 0.760, 16.97, 0.762, 0.764, 16.99, 0.0061, 0.0061)), (224, 1.0, None)],
)
def test_coefficients_have_the_published_spread(size, mean_square, true):
    family = Projective(size)
    numbers = family.draw(uniform(torch.arange(20_000), family.draws, 1))
    assert numbers.square().mean().item() == pytest.approx(mean_square, abs=0.02)
    if true:
        std = (numbers * family.std).std(0)
        torch.testing.assert_close(std, torch.tensor(true, dtype=torch.float64), rtol=0.02, atol=0)
    else:  # the authors' numbers for ImageNet are the true ones
        torch.testing.assert_close(numbers.std(0), torch.ones(8, dtype=torch.float64), rtol=0, atol=0.03)
        torch.testing.assert_close(numbers.mean(0), torch.zeros(8, dtype=torch.float64), rtol=0, atol=0.03)


def test_by_the_true_spread_every_coefficient_weighs_the_same():
    family = Projective(32, true_std=True)
    numbers = family.draw(uniform(torch.arange(20_000), family.draws, 1))
    torch.testing.assert_close(numbers.square().mean(0), torch.ones(8, dtype=torch.float64), rtol=0, atol=0.03)


@pytest.mark.parametrize("family", [Affine(32), Projective(32), Projective(32, true_std=True)])
def test_numbers_and_inverse_warp_come_back(family):
    numbers = family.draw(uniform(torch.arange(6), family.draws))
    matrix = family.matrix(numbers)
    there_and_back = matrix @ torch.linalg.inv(matrix)
    torch.testing.assert_close(there_and_back, torch.eye(3, dtype=torch.float64).expand(6, 3, 3))
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    smooth = torch.stack([torch.sin(x / 8), torch.cos(y / 9)])[None].expand(6, -1, -1, -1) / 4 + 0.5
    back = warp(warp(smooth, matrix), torch.linalg.inv(matrix))
    middle = (slice(None), slice(None), slice(13, 19), slice(13, 19))
    assert (back[middle] - smooth[middle]).abs().max() < 0.02


def test_the_identity_and_whole_pixels_are_exact():
    x = torch.rand(2, 3, 8, 8)
    matrix = torch.eye(3).repeat(2, 1, 1)
    matrix[1, 0, 2] = 3  # the result's pixel shows the image's pixel 3 to the right
    same, shifted = warp(x, matrix)
    torch.testing.assert_close(same, x[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(shifted[..., :5], x[1, ..., 3:], rtol=0, atol=1e-6)
    assert (shifted[..., 5:] == FILL).all()


def test_half_precision_keeps_its_dtype():
    x = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        warped = warp(x.bfloat16(), torch.eye(3).repeat(2, 1, 1))
    assert warped.dtype == torch.bfloat16
    assert torch.equal(warped, x.bfloat16())
