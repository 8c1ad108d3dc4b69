import math

import pytest
import torch
from scipy import stats

from ssl_lightning.mixing import own_shares, partners

CPU = torch.device("cpu")


def test_neighbours_are_partners():
    assert partners(6).tolist() == [1, 0, 3, 2, 5, 4]
    assert partners(5).tolist() == [1, 0, 3, 2, 4]


def loop(u, size, mixup, cutmix):
    """One image: the papers' equations, with the box of CutMix's code for an odd side."""
    cut = u[0] < 0.5 if mixup and cutmix else cutmix > 0
    alpha = cutmix if cut else mixup
    kept = stats.beta(alpha, alpha).ppf(u[1])
    if not cut:
        return torch.full((size, size), kept)
    side = int(math.sqrt(1 - kept) * size)
    row, column = int(u[2] * size), int(u[3] * size)
    share = torch.ones(size, size)
    for i in range(size):
        for j in range(size):
            if row - side // 2 <= i < row + (side + 1) // 2 and column - side // 2 <= j < column + (side + 1) // 2:
                share[i, j] = 0
    return share


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.2, 0.0), (0.0, 1.0)])
def test_shares_equal_a_loop(mixup, cutmix):
    u = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([loop(row, 9, mixup, cutmix) for row in u.tolist()]).float()
    torch.testing.assert_close(own_shares(u, 9, mixup, cutmix, CPU), expected)


def test_half_of_the_images_take_each_and_lambda_has_its_distribution():
    u = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(1))
    shares = own_shares(u, 8, 0.8, 1.0, CPU)
    mixed = shares.amin((1, 2)) == shares.amax((1, 2))  # a box of no pixel counts too
    lam = own_shares(u, 8, 0.8, 0.0, CPU)[:, 0, 0]
    assert 0.5 < mixed.float().mean() < 0.56
    assert stats.kstest(lam.numpy(), stats.beta(0.8, 0.8).cdf).pvalue > 0.01
