import math

import pytest
import torch
from lightly.utils.benchmarking.knn import knn_predict
from torch.nn import functional as F

from callbacks import knn
from callbacks.features import Features
from callbacks.knn import KNNMonitor, accuracies


def rows(n, dim, classes, seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    label = torch.randint(classes, (n,), generator=generator)
    return Features(centres[label] + spread * torch.randn(n, dim, generator=generator), label, torch.arange(n))


def loop(bank, query, k, temperature):
    """Votes (Q, C) from the definition, in float64."""
    votes = torch.zeros(len(query.label), int(bank.label.max()) + 1, dtype=torch.float64)
    for i, q in enumerate(query.features.double()):
        similarity = [float(q @ b / (q.norm() * b.norm())) for b in bank.features.double()]
        for j in sorted(range(len(similarity)), key=lambda j: -similarity[j])[:k]:
            votes[i, bank.label[j]] += math.exp(similarity[j] / temperature)
    return votes


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (60, 0.1)])
def test_accuracy_is_that_of_a_loop_from_the_definition(k, temperature):
    bank, query = rows(60, 6, 7, seed=0, spread=2.0), rows(41, 6, 7, seed=1, spread=2.0)
    votes = loop(bank, query, k, temperature)
    best = votes.argsort(dim=1, descending=True, stable=True)
    scores = KNNMonitor(k, temperature).score(bank, query)
    assert 0.2 < scores["top1"] < 0.95
    assert scores["top1"] == (best[:, 0] == query.label).float().mean()
    voted = votes.gather(1, best) > 0  # a class without votes is no guess, although it may be among the first five
    assert scores["top5"] == ((best == query.label[:, None]) & voted)[:, :5].any(1).float().mean()


def test_votes_are_those_of_lightly():
    bank, query = rows(200, 16, 10, seed=0, spread=3.0), rows(50, 16, 10, seed=1, spread=3.0)
    normalized = F.normalize(query.features, dim=1), F.normalize(bank.features, dim=1)
    predicted = knn_predict(normalized[0], normalized[1].T, bank.label, num_classes=10, knn_k=20, knn_t=0.07)
    expected = (predicted[:, 0] == query.label).float().mean()
    assert KNNMonitor(20, 0.07).score(bank, query)["top1"] == expected


def test_blocks_of_queries_change_nothing(monkeypatch):
    bank, query = rows(60, 6, 7, seed=0, spread=2.0), rows(41, 6, 7, seed=1, spread=2.0)
    whole = KNNMonitor(5).score(bank, query)
    monkeypatch.setattr(knn, "BLOCK", 60 * 4)
    assert KNNMonitor(5).score(bank, query) == whole


def test_a_small_temperature_does_not_overflow():
    bank = query = rows(60, 6, 7, seed=0)
    assert KNNMonitor(5, temperature=0.001).score(bank, query)["top1"] == 1


def test_a_class_that_the_bank_lacks_is_never_right():
    bank, query = rows(60, 6, 3, seed=0, spread=0.1), rows(40, 6, 3, seed=1, spread=0.1)
    query = query._replace(label=query.label.masked_fill(query.label == 2, 5))
    assert KNNMonitor(5).score(bank, query)["top1"] == (query.label < 5).float().mean()


def test_top5_is_given_from_six_classes_on():
    assert accuracies(torch.rand(3, 5), torch.tensor([0, 1, 2])).keys() == {"top1"}
    votes = torch.arange(6.0).repeat(2, 1)
    scores = accuracies(votes, torch.tensor([1, 0]))
    assert (scores["top1"], scores["top5"]) == (0, 0.5)


def test_more_neighbours_than_images_is_an_error():
    bank = rows(10, 6, 3, seed=0)
    with pytest.raises(ValueError, match=r"k=20 .* bank of 10 images: set --knn.k to at most that"):
        KNNMonitor(20).score(bank, bank)


@pytest.mark.parametrize("arguments", [{"k": 0}, {"temperature": 0.0}])
def test_arguments_out_of_range_are_errors(arguments):
    with pytest.raises(ValueError, match="must be"):
        KNNMonitor(**arguments)


def test_the_protocol_says_what_was_measured():
    assert KNNMonitor().protocol == "knn-v1: k=20,T=0.07,full bank,eval mode"
    assert KNNMonitor(k=5, labels_per_class=10, draws=4).protocol == (
        "knn-v1: k=5,T=0.07,10 labels a class,mean of 4,eval mode"
    )
