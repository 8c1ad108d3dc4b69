from itertools import permutations

import pytest
import torch

from ssl_lightning.puzzle import cut, lay_out, permutation_set


def distances(rows):
    """Hamming distances of all pairs."""
    different = (rows[:, None] != rows[None]).sum(2)
    return different[torch.ones_like(different).triu(1).bool()]


@pytest.mark.parametrize(("count", "least", "mean"), [(35, 7, 8.225), (100, 6, 8.08), (1000, 5, 8.008)])
def test_permutations_are_far_apart(count, least, mean):
    rows = permutation_set(9, count, seed=0)
    assert rows.shape == (count, 9)
    assert rows.dtype == torch.int64
    assert torch.equal(rows.sort(1).values, torch.arange(9).expand(count, 9))
    assert distances(rows).min() >= least  # so each is there once
    assert distances(rows).double().mean() == pytest.approx(mean, abs=0.006)
    share = torch.stack([(rows == tile).double().mean(0) for tile in range(9)])  # of a tile in a place
    assert (share - 1 / 9).abs().max() < 0.06


@pytest.mark.parametrize("seed", [0, 1])
def test_each_is_the_farthest_of_those_that_are_left(seed):
    rows = permutation_set(5, 40, seed)

    def score(candidate, chosen):
        apart = [sum(a != b for a, b in zip(candidate, other, strict=True)) for other in chosen]
        return min(apart), sum(apart)

    for n in range(1, 40):
        chosen = rows[:n].tolist()
        assert score(rows[n].tolist(), chosen) == max(score(c, chosen) for c in permutations(range(5)))


def test_the_seed_decides_which():
    assert torch.equal(permutation_set(9, 50, 3), permutation_set(9, 50, 3))
    assert not torch.equal(permutation_set(9, 50, 3), permutation_set(9, 50, 4))


def test_a_small_grid_has_24():
    assert {tuple(row) for row in permutation_set(4, 24, 0).tolist()} == set(permutations(range(4)))
    with pytest.raises(ValueError, match="4 tiles have 24 permutations: choose 2 to 24, got 25"):
        permutation_set(4, 25, 0)
    with pytest.raises(ValueError, match="got 1"):
        permutation_set(4, 1, 0)


def test_cut_takes_each_channel_from_its_place():
    x = torch.rand(3, 2, 10, 12)
    place = torch.randint(7, (3, 5, 2, 2), generator=torch.Generator().manual_seed(0))
    tiles = cut(x, place, 4)
    assert tiles.shape == (3, 5, 2, 4, 4)
    for i in range(3):
        for j in range(5):
            for c in range(2):
                top, left = place[i, j, c].tolist()
                assert torch.equal(tiles[i, j, c], x[i, c, top : top + 4, left : left + 4])


@pytest.mark.parametrize("grid", [2, 3])
def test_laid_out_tiles_of_a_cut_image_are_the_image(grid):
    x = torch.rand(2, 3, 4 * grid, 4 * grid)
    corners = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)) * 4
    tiles = cut(x, corners[None, :, None].expand(2, -1, 3, 2), 4)
    assert torch.equal(lay_out(tiles, gap=0), x)
    spaced = lay_out(tiles, gap=2)
    assert spaced.shape == (2, 3, 6 * grid - 2, 6 * grid - 2)
    assert torch.equal(spaced[:, :, 6:10, 6:10], x[:, :, 4:8, 4:8])
    assert (spaced[:, :, 4:6] == 1).all()
