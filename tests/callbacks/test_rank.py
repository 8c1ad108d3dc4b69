import warnings

import pytest
import torch

from callbacks.features import Features
from callbacks.rank import RankMonitor, effective_rank, spread
from tests.callbacks.tiny import TinyData, TinyModel, trainer


def rows(features):
    return Features(features, torch.full((len(features),), -1), torch.arange(len(features)))


def test_effective_rank_is_one_for_a_line_and_the_dimension_for_a_ball():
    x = torch.randn(5000, 1) @ torch.randn(1, 16)
    assert effective_rank(x) == pytest.approx(1, abs=0.01)
    assert effective_rank(torch.randn(5000, 16)) == pytest.approx(16, abs=0.05)
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(4 / 3**0.75, rel=1e-4)  # by hand


def test_spread_is_one_for_a_ball_and_zero_for_a_point():
    assert spread(torch.randn(5000, 64)) == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(100, 64)) == pytest.approx(0, abs=1e-6)


def test_collapse_is_warned_of_by_name_and_once(tmp_path):
    torch.manual_seed(0)
    model = TinyModel()
    with torch.no_grad():
        model.net.weight.mul_(1e-4)
    monitor = RankMonitor()
    run = trainer(tmp_path, monitor)
    with pytest.warns(UserWarning, match=r"features have collapsed: effective rank 1\.\d\d of 8 .* std 0\.00"):
        run.validate(model, TinyData(), verbose=False)
    assert run.callback_metrics["val/feature_rank"] < 1.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.score(rows(torch.ones(50, 8)), rows(torch.ones(50, 8)))


def test_a_second_collapse_is_warned_of_again():
    monitor, flat = RankMonitor(), rows(torch.ones(50, 8))
    with pytest.warns(UserWarning, match="collapsed"):
        monitor.score(flat, flat)
    good = rows(torch.randn(50, 8))
    monitor.score(good, good)
    with pytest.warns(UserWarning, match="collapsed"):
        monitor.score(flat, flat)


def test_features_of_nothing_but_zeros_count_as_collapsed():
    zeros = rows(torch.zeros(50, 8))
    with pytest.warns(UserWarning, match="collapsed"):
        scores = RankMonitor().score(zeros, zeros)
    assert all(torch.as_tensor(value).isfinite() for value in scores.values())


def test_each_layer_is_warned_of_by_name_and_once():
    monitor, flat, good = RankMonitor(), rows(torch.ones(50, 8)), rows(torch.randn(50, 8))
    warned = []
    for layer, features in (("a", flat), ("b", good), ("a", flat), ("b", flat)):
        monitor.layer = layer
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor.score(features, features)
        warned.append([str(w.message).split(" have")[0] for w in caught])
    assert warned == [["the features of a"], [], [], ["the features of b"]]
