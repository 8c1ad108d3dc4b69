import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from callbacks.features import Features
from callbacks.linear import MIN_STEPS, MOMENTUM, LinearEvaluation, fit_linear
from tests.callbacks.test_knn import rows


def test_accuracy_is_near_that_of_logistic_regression():
    bank, query = rows(600, 20, 8, seed=0, spread=1.2), rows(400, 20, 8, seed=1, spread=1.2)
    oracle = LogisticRegression(C=0.1, max_iter=500).fit(bank.features, bank.label)
    expected = oracle.score(query.features, query.label)
    scores = LinearEvaluation().score(bank, query)
    assert 0.8 < expected < 0.99
    assert scores["top1"] == pytest.approx(expected, abs=0.025)
    assert scores["top5"] >= scores["top1"]
    assert scores["rate"] in LinearEvaluation().rates
    assert scores["split_top1"] == pytest.approx(expected, abs=0.05)


def test_scale_shift_and_dead_features_do_not_matter():
    bank, query = rows(300, 20, 8, seed=0, spread=2.5), rows(200, 20, 8, seed=1, spread=2.5)
    shift = torch.linspace(-3, 3, 20)
    scaled = [r._replace(features=1e-3 * r.features + shift) for r in (bank, query)]
    plain = LinearEvaluation().score(bank, query)["top1"]
    assert LinearEvaluation().score(*scaled)["top1"] == pytest.approx(float(plain), abs=0.01)
    dead = [r._replace(features=F.pad(r.features, (0, 3))) for r in (bank, query)]
    assert LinearEvaluation().score(*dead)["top1"] == pytest.approx(float(plain), abs=0.01)


def test_the_written_out_gradient_is_that_of_sgd_on_the_cross_entropy():
    data = rows(30, 5, 3, seed=0)
    x, label = data.features, data.label
    weight = fit_linear(x, label, 3, [0.01, 0.1], epochs=1, batch_size=30)
    for r, rate in enumerate([0.01, 0.1]):
        w = torch.zeros(5, 3, requires_grad=True)
        sgd = torch.optim.SGD([w], rate, momentum=MOMENTUM)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, MIN_STEPS)
        for _ in range(MIN_STEPS):
            sgd.zero_grad()
            F.cross_entropy(x @ w, label).backward()
            sgd.step()
            schedule.step()
        torch.testing.assert_close(weight[:, r], w.detach(), rtol=1e-3, atol=1e-4)


def test_the_rate_is_not_chosen_on_the_queries():
    bank, query = rows(200, 6, 7, seed=0, spread=2.0), rows(100, 6, 7, seed=1, spread=2.0)
    shuffled = query._replace(label=query.label.roll(1))
    scores = [LinearEvaluation(rates=(1e-6, 1e-2)).score(bank, q) for q in (query, shuffled)]
    assert scores[0]["rate"] == scores[1]["rate"] == 1e-2
    assert scores[0]["split_top1"] == scores[1]["split_top1"]
    assert scores[0]["top1"] > scores[1]["top1"]


def test_of_rates_that_learn_nothing_and_something_the_second_is_chosen():
    bank = rows(200, 6, 4, seed=0, spread=0.5)
    for rates in ((1e-9, 1e-2), (1e-2, 1e-9)):
        assert LinearEvaluation(rates=rates).score(bank, bank)["rate"] == 1e-2


def test_it_is_the_same_every_time():
    bank, query = rows(100, 6, 4, seed=0, spread=3.0), rows(50, 6, 4, seed=1, spread=3.0)
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        scores.append(LinearEvaluation(epochs=2, batch_size=16).score(bank, query))
        assert torch.equal(state, torch.get_rng_state())
    assert scores[0] == scores[1]


def test_features_that_say_nothing_give_chance():
    bank, query = rows(400, 6, 4, seed=0), rows(400, 6, 4, seed=1)
    noise = [r._replace(features=torch.randn(400, 6)) for r in (bank, query)]
    assert LinearEvaluation().score(*noise)["top1"] == pytest.approx(0.25, abs=0.08)


def test_one_image_a_class_is_an_error():
    bank = Features(torch.eye(3), torch.arange(3), torch.arange(3))
    with pytest.raises(ValueError, match="no class of the bank has two images"):
        LinearEvaluation().score(bank, bank)


@pytest.mark.parametrize("arguments", [{"rates": ()}, {"rates": (0.0,)}, {"epochs": 0}, {"labels_per_class": 1}])
def test_arguments_out_of_range_are_errors(arguments):
    with pytest.raises(ValueError, match=r"must be|at least 2"):
        LinearEvaluation(**arguments)


def test_the_protocol_says_what_was_measured():
    assert LinearEvaluation(rates=(0.01, 0.1)).protocol == (
        "linear-v1: standardised,SGD,30 epochs,B=256,2 rates 0.01-0.1 chosen on 20 % of the bank,full bank,eval mode"
    )
