"""Greedy and beam search against searches that try everything."""

import itertools
import math
import zlib
from functools import cache

import pytest
import torch

from datamodules.batch import EOS, PAD
from ssl_lightning.decoding import beam_search, greedy

VOCABULARY, STEPS, BATCH = 6, 4, 16  # 4 tokens may be said: EOS, <unk> and two words
CPU = torch.device("cpu")


@cache
def logits(row, said):
    """Of the token after some, for the source of a number: any, EOS seldom."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((row, said)).encode()))
    return 1.5 * torch.randn(VOCABULARY, generator=generator) - torch.tensor([0.0, 0.0, 1.5, 0.0, 0.0, 0.0])


def model(beam):
    def next_token(tokens):
        rows = enumerate(tokens[:, 1:].tolist())
        return torch.stack(
            [logits(i // beam, tuple(said[: said.index(EOS) if EOS in said else None])) for i, said in rows]
        )

    return next_token


def log_p(row, said):
    """log P of one sequence, token by token up to EOS."""
    said = tuple(t for t in said if t != PAD)
    return sum(logits(row, said[:t]).double().log_softmax(0)[token].item() for t, token in enumerate(said))


def every_sequence():
    for length in range(1, STEPS + 1):
        for words in itertools.product((3, 4, 5), repeat=length - 1):
            yield (*words, EOS)
    yield from itertools.product((3, 4, 5), repeat=STEPS)


def filled(said):
    return [*said, *[PAD] * (STEPS - len(said))]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_that_keeps_everything_finds_the_best_of_all_sequences(alpha):
    found, value = beam_search(model(128), BATCH, STEPS, CPU, beam=128, alpha=alpha)
    lengths = set()
    for row, (said, p) in enumerate(zip(found.tolist(), value.tolist(), strict=True)):
        scores = {s: log_p(row, s) / ((5 + len(s)) / 6) ** alpha for s in every_sequence()}
        best = max(scores, key=scores.get)
        assert filled(said) == filled(best)
        assert p == pytest.approx(log_p(row, best), abs=1e-4)
        lengths.add(len(best))
    assert len(lengths) > 1


def test_the_length_penalty_makes_sequences_longer():
    lengths = [(beam_search(model(128), BATCH, STEPS, CPU, 128, a)[0] != PAD).sum().item() for a in (0.0, 0.6, 2.0)]
    assert lengths[0] < lengths[1] < lengths[2]


def test_greedy_takes_the_likeliest_token_again_and_again():
    for row, said in enumerate(greedy(model(1), BATCH, STEPS, CPU).tolist()):
        alone = ()
        while len(alone) < STEPS and EOS not in alone:
            alone += (max(range(EOS, VOCABULARY), key=logits(row, alone).tolist().__getitem__),)
        assert said == filled(alone)


def test_a_beam_of_one_is_greedy_and_a_wider_one_likelier():
    first = greedy(model(1), BATCH, STEPS, CPU)
    one, p_one = beam_search(model(1), BATCH, STEPS, CPU, beam=1)
    assert [filled(said) for said in one.tolist()] == first.tolist()
    four, p_four = beam_search(model(4), BATCH, STEPS, CPU, beam=4, alpha=0.0)
    assert (p_four >= p_one - 1e-5).all()
    assert (p_four > p_one + 1e-3).any()
    assert p_four.tolist() == pytest.approx([log_p(row, said) for row, said in enumerate(four.tolist())], abs=1e-4)


def test_what_stands_for_nothing_is_never_said():
    def padding(tokens):
        return torch.tensor([9.0, 8.0, -1.0, 0.0, 1.0, 2.0]).expand(len(tokens), -1)

    assert greedy(padding, 1, 3, CPU).tolist() == [[5, 5, 5]]
    assert beam_search(padding, 1, 3, CPU, 2, 0.0)[0].tolist() == [[5, 5, 5]]


def test_the_search_ends_when_all_have_ended():
    calls = []

    def ends(tokens):
        calls.append(tokens.shape)
        return torch.tensor([0.0, 0.0, 50.0, 0.0, 1.0, 2.0]).expand(len(tokens), -1)

    tokens, p = beam_search(ends, 2, 100, CPU, 1)
    assert tokens.tolist() == [[EOS], [EOS]]
    assert len(calls) == 1
    assert p.tolist() == pytest.approx([50 - math.log(math.exp(50) + math.exp(1) + math.exp(2) + 3)] * 2)
