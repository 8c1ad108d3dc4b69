"""Jigsaw: the puzzle and its loss against loops, and what the gap is for."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks.pictures import DrawsPictures
from datamodules import Photos
from datamodules.batch import ImageBatch
from datamodules.draws import uniform
from ssl_lightning.methods import Jigsaw
from ssl_lightning.puzzle import lay_out
from tests.methods.tiny import make


def pictures(n, size=32):
    return torch.from_numpy(Photos(image_size=size).splits().train.images[:n]).float() / 255


def drawn(model, n, seed=0):
    return uniform(torch.arange(n), model.draws, seed)


def batch(x):
    n = torch.arange(len(x))
    return ImageBatch((255 * x).byte(), torch.zeros_like(n), n, (x,))


@pytest.mark.parametrize(("grid", "count"), [(2, 24), (3, 100), (3, 1000)])
def test_who_knows_nothing_loses_ln_p(grid, count):
    model = make(Jigsaw, grid=grid, num_permutations=count, image_size=32, tile_size=8, dropout=0.5)
    assert model.permutations.shape == (count, grid**2)
    out = model.training_step(batch(pictures(16)), 0)
    assert out["loss"].item() == pytest.approx(math.log(count), rel=0.03)
    nn.init.zeros_(model.fc8.weight)
    nn.init.zeros_(model.fc8.bias)
    assert model.training_step(batch(pictures(16)), 0)["loss"].item() == pytest.approx(math.log(count), rel=1e-5)
    assert 0 <= out["accuracy"] <= 1


@pytest.mark.parametrize("grid", [2, 3])
def test_a_puzzle_is_the_image_s_tiles_in_the_order_of_its_permutation(grid):
    model = make(Jigsaw, grid=grid, image_size=34, tile_size=9, channel_shift=1, grey=0.5)
    x, u = pictures(20, 34), drawn(model, 20)
    tiles, label = model.puzzle(x, u)
    assert tiles.shape == (20, grid**2, 3, 9, 9)
    border, room = (34 - 34 // grid * grid) // 2, 34 // grid - 9
    for i, row in enumerate(u.tolist()):
        assert label[i] == int(row[0] * len(model.permutations))
        image = x[i]
        if row[1] < 0.5:
            image = (0.2989 * image[0] + 0.587 * image[1] + 0.114 * image[2]).expand(3, -1, -1)
        places, shifts = row[2 : 2 + 2 * grid**2], row[2 + 2 * grid**2 :]
        for j, t in enumerate(model.permutations[label[i]].tolist()):
            for c in range(3):
                corner = []
                for axis in range(2):
                    moved = 0 if row[1] < 0.5 else int(shifts[6 * t + 2 * c + axis] * 3) - 1
                    offset = int(places[2 * t + axis] * (room + 1)) + moved
                    corner.append(border + (t // grid, t % grid)[axis] * (34 // grid) + min(max(offset, 0), room))
                expected = image[c, corner[0] : corner[0] + 9, corner[1] : corner[1] + 9]
                assert torch.allclose(tiles[i, j, c], expected, atol=1e-6)


def test_a_tile_lies_anywhere_in_its_cell_and_nowhere_else():
    model = make(Jigsaw, grid=3, image_size=255, tile_size=None)
    assert (model.cell, model.tile_size, model.channel_shift) == (85, 64, 2)  # the authors' numbers
    u = drawn(model, 3000)
    still, moved = u[:, 2:20].clone(), u[:, 20:]
    place = model.places(still, torch.full_like(moved, 0.5))  # no channel moves
    for axis in range(2):
        offset = place[..., axis] - 85 * torch.tensor([t // 3 if axis == 0 else t % 3 for t in range(9)])[:, None]
        assert offset.unique().tolist() == list(range(22))
        assert (offset.double().mean((0, 2)) - 10.5).abs().max() < 0.6
        assert torch.equal(offset[..., 0], offset[..., 1])
    shifted = model.places(still, moved) - place
    assert shifted.unique().tolist() == [-2, -1, 0, 1, 2]
    assert (shifted[..., 0, :] != shifted[..., 1, :]).any()
    gap = place[:, 1, 0, 1] - place[:, 0, 0, 1] - 64
    assert gap.min() >= 0
    assert gap.double().mean() == pytest.approx(21, abs=1)


def test_the_loss_is_that_of_one_tower_on_each_tile():
    model = make(Jigsaw, grid=2, image_size=32, backbone_args={"width": 4, "norm": "none"}).double()
    x = pictures(3).double()
    u = drawn(model, 3)
    model.uniform = lambda index, n: u
    loss = model.training_step(batch(x), 0)["loss"]
    tiles, label = model.puzzle(x, u)
    total = 0.0
    for i in range(3):
        row = []
        for tile in tiles[i]:
            mean, variance = tile.mean((1, 2)), tile.var((1, 2), correction=0)
            z = (tile - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
            row.append(model.fc6(model.backbone(0.45 + 0.225 * z[None])))
        logits = model.fc8(model.fc7(torch.cat(row, dim=1)))[0]
        total += torch.logsumexp(logits, 0) - logits[label[i]]
    torch.testing.assert_close(loss, (total / 3), rtol=1e-5, atol=1e-5, check_dtype=False)


def test_batch_norm_sees_the_tiles_of_all_images_at_once():
    model = make(Jigsaw, grid=3, image_size=32)
    seen = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    model.training_step(batch(pictures(4)), 0)
    assert seen == [36] * 4


def test_brightness_and_contrast_of_a_tile_tell_nothing():
    model = make(Jigsaw, grid=2, image_size=32).eval()
    tiles = model.puzzle(pictures(4), drawn(model, 4))[0]
    level = 0.3 + torch.rand(4, 4, 3, 1, 1)
    other = tiles * level + torch.rand(4, 4, 3, 1, 1)
    assert torch.allclose(model.solve(tiles), model.solve(other), atol=0.02)
    assert not torch.allclose(model.solve(tiles), model.solve(tiles.flip(4)), atol=0.02)


def by_the_edges(tiles, permutations):
    """Puts tiles together by what nobody should need: the colours on both sides of each edge."""
    a, b, c, d = tiles[:, permutations.argsort(1)].unbind(2)  # (B, P, C, s, s): every permutation undone
    apart = [x[..., -1] - y[..., 0] for x, y in ((a, b), (c, d))]
    apart += [x[..., -1, :] - y[..., 0, :] for x, y in ((a, c), (b, d))]
    return sum(edge.square().mean((2, 3)) for edge in apart).argmin(1)


@pytest.mark.parametrize(
    ("tile_size", "normalised", "least", "most"),
    [(16, False, 0.85, 1.0), (16, True, 0.3, 0.5), (12, False, 0.5, 0.7), (None, True, 0.0, 0.2)],
)
def test_edges_solve_the_puzzle_unless_there_is_a_gap_and_tiles_are_normalised(tile_size, normalised, least, most):
    """The shortcut control: without either, comparing edges alone solves 9 of 10 puzzles, with both 1 of 8."""
    model = make(Jigsaw, grid=2, image_size=32, tile_size=tile_size, grey=0.0)
    tiles, label = model.puzzle(pictures(500), drawn(model, 500))
    if normalised:
        tiles = F.instance_norm(tiles.flatten(0, 1)).view_as(tiles)
    solved = (by_the_edges(tiles, model.permutations) == label).double().mean()
    assert least <= solved <= most


def test_pictures_show_the_puzzle_put_together_as_the_model_says():
    model = make(Jigsaw, grid=2, image_size=32).eval()
    assert isinstance(model, DrawsPictures)
    x = pictures(6)
    tiles, label = model.puzzle(x, uniform(torch.arange(6), model.draws))
    wrong = (label + 1) % 24
    told = torch.where(torch.arange(6) < 3, label, wrong)
    model.solve = lambda tiles: F.one_hot(told, 24).float()
    given, solved, image = model.pictures(batch(x))
    assert torch.equal(given.images, lay_out(tiles, 1))
    true = torch.stack([tiles[i, model.permutations[label[i]].argsort()] for i in range(6)])
    assert torch.equal(solved.images[:3], lay_out(true, 1)[:3])
    assert not torch.equal(solved.images[3:], lay_out(true, 1)[3:])
    assert solved.right.tolist() == [True] * 3 + [False] * 3
    assert torch.equal(image.images, x)


def test_the_permutations_are_the_run_s_and_stay_with_the_weights(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    model = make(Jigsaw)
    monkeypatch.setenv("PL_GLOBAL_SEED", "2")
    other = make(Jigsaw)
    assert not torch.equal(model.permutations, other.permutations)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.permutations, other.permutations)


def test_default_views_have_no_border():
    """A black border would tell the outer tiles."""
    views = make(Jigsaw).default_views()
    white = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    assert views(white, torch.arange(64), 32, 0)[0].min() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 4}, "grid must be 2 or 3, got 4"),
        ({"grid": 2, "num_permutations": 25}, "4 tiles have 24 permutations: choose 2 to 24, got 25"),
        ({"grid": 3, "num_permutations": 400000, "tile_size": None}, "9 tiles have 362880 permutations"),
        ({"num_permutations": 0}, "choose 2 to 24, got 0"),
        ({"tile_size": 9}, "at most 8 px, the side of a cell of a 2x2 grid in images of 16 px, got 9"),
        ({"tile_size": 1}, "tile_size must be 2 or more"),
        (
            {"image_size": 2, "tile_size": None, "backbone_args": {"small_stem": False}},
            "in images of 2 px, got 1: set tile_size, or a larger image_size",
        ),
        ({"grey": 1.5}, r"grey must lie in \[0, 1\], got 1.5"),
        ({"channel_shift": -1}, "channel_shift must be at least 0, got -1"),
        (
            {"backbone": "cfn", "backbone_args": {}, "image_size": 64},
            "cfn cannot take tiles of 6x6 px: .* choose another backbone, or a larger tile_size or image_size",
        ),
        (
            {"backbone": "vit_tiny_patch16_224", "backbone_args": {}, "image_size": 224, "tile_size": 64},
            "vit_tiny_patch16_224 cannot take tiles of 64x64 px",
        ),
    ],
)
def test_wrong_numbers(changes, message):
    with pytest.raises(ValueError, match=message):
        make(Jigsaw, **changes)


def test_the_paper_s_network():
    model = Jigsaw(backbone="cfn", image_size=255, num_permutations=100)
    assert model.solve(torch.rand(2, 9, 3, 64, 64)).shape == (2, 100)
