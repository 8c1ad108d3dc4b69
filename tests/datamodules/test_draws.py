import numpy as np
import pytest
import torch
from scipy import stats

from datamodules.draws import global_seed, normal, uniform

INDEX = torch.arange(20_000)


def splitmix(index: int, n: int, *key: int) -> list[float]:
    """The definition, in Python's unbounded integers."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    state = 0
    for part in (*key, index):
        state = mix((state + golden & mask) ^ (part & mask))
    return [(mix(state + column * golden & mask) >> 40) / 2**24 for column in range(1, n + 1)]


def test_draws_are_splitmix64():
    for key in [(), (0,), (42, 7), (2**32 - 1, 0, -3)]:
        expected = [splitmix(i, 5, *key) for i in (0, 1, 123_456_789_012)]
        assert uniform(torch.tensor([0, 1, 123_456_789_012]), 5, *key).tolist() == expected


def test_draws_stay_the_same_from_version_to_version():
    first = uniform(torch.tensor([0, 7]), 2, 1, 2)
    assert (first * 2**24).long().tolist() == [[656092, 12636231], [10183387, 2128632]]


def test_draws_are_uniform_in_each_column():
    u = uniform(INDEX, 8, 0, 0)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        counts = np.bincount((column * 100).long().numpy(), minlength=100)
        assert stats.chisquare(counts).pvalue > 1e-4
    lowest = (u * 2**24).long() % 16  # the low bits too
    assert stats.chisquare(np.bincount(lowest.flatten().numpy(), minlength=16)).pvalue > 1e-4


def test_pairs_of_columns_fill_the_square_evenly():
    u = (uniform(INDEX, 4, 3) * 10).long()
    for a, b in [(0, 1), (1, 2), (0, 3)]:
        counts = np.bincount((10 * u[:, a] + u[:, b]).numpy(), minlength=100)
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(
    "other",
    [
        uniform(INDEX + 1, 36, 0, 0),
        uniform(INDEX, 36, 0, 1),
        uniform(INDEX, 36, 1, 0),
        uniform(INDEX, 36, 0),
        uniform(INDEX, 37, 0, 0)[:, 1:],
    ],
    ids=["next image", "next epoch", "next seed", "shorter key", "next column"],
)
def test_draws_of_neighbours_are_not_correlated(other):
    u = uniform(INDEX, 36, 0, 0)
    correlation = ((u - 0.5) * (other - 0.5)).mean(0) * 12  # (36,), standard deviation 1 / sqrt(20,000)
    assert correlation.abs().max() < 5 / len(INDEX) ** 0.5


def test_order_of_the_key_matters():
    assert not torch.equal(uniform(INDEX, 1, 1, 2), uniform(INDEX, 1, 2, 1))


def test_rows_do_not_depend_on_the_batch_nor_columns_on_their_number():
    u = uniform(INDEX, 6, 5, 9)
    part = torch.tensor([77, 3, 19_999, 3])
    assert torch.equal(uniform(part, 6, 5, 9), u[part])
    assert torch.equal(uniform(part, 4, 5, 9), u[part, :4])


def test_draws_leave_the_generator_of_torch_alone():
    before = torch.get_rng_state()
    uniform(INDEX, 3, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_global_seed_is_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert global_seed() == 17
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert global_seed() == 0


def test_normal_draws_are_normal_and_none_is_infinite():
    z = normal(uniform(INDEX, 3, 5))
    assert z.dtype == torch.float32
    assert all(stats.kstest(column.numpy(), "norm").pvalue > 1e-3 for column in z.T)
    ends = torch.tensor([0.0, 0.5, 1 - 2.0**-24])
    expected = stats.norm.ppf(ends.double().numpy() + 2.0**-25)
    np.testing.assert_allclose(normal(ends).numpy(), expected, rtol=1e-6)
    assert expected[2] == -expected[0] > 5
