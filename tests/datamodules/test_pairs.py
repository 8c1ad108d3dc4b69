"""Pairs against a plain loop, which is the authors' create_instances_from_document with our draws."""

import numpy as np
import pytest
import torch

from datamodules.corpus import Corpus
from datamodules.draws import uniform
from datamodules.pairs import HeldOutPairs, PairBatches, Pairs
from datamodules.word_pieces import WordPiece, train

T, SEED = 24, 3
ROOM = T - 3


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece(train(lambda: ["some words are here to be cut into pieces"], 60))


def corpus(documents, seed=0):
    """Documents of 1 to 12 sentences of 1 to 15 tokens, whose numbers are their places."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 13, documents)
    lengths = rng.integers(1, 16, sizes.sum())
    offsets = np.concatenate([[0], lengths.cumsum()])
    return Corpus(np.arange(offsets[-1]), offsets, sizes.cumsum() - sizes, sizes.cumsum())


def number(low, high, *draws):
    """Of [low, high], as random.randint."""
    share = sum(u * 2.0 ** (-24 * i) for i, u in enumerate(draws))
    return low + int(share * (high - low + 1))


def loop(of, epoch):
    """(start, target, A, B, random) of each pair; A and B are lists of sentences."""
    documents = [list(range(a, b)) for a, b in zip(of.first, of.last, strict=True)]
    length = np.diff(of.offsets)
    for d, document in enumerate(documents):
        short, where = uniform(torch.tensor([d]), 2, SEED, epoch, 0)[0].tolist()
        target = number(2, ROOM, where) if short < 0.1 else ROOM
        chunk, i = [], 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(length[chunk]) >= target:
                u = uniform(torch.tensor([chunk[0]]), 6, SEED, epoch, 1)[0].double().tolist()
                a_end = number(1, len(chunk) - 1, u[0]) if len(chunk) > 1 else 1
                a = chunk[:a_end]
                random = len(chunk) == 1 or u[1] < 0.5
                if random:
                    other = number(0, len(documents) - 2, u[2], u[3])
                    other += other >= d
                    b, start = [], number(0, len(documents[other]) - 1, u[4], u[5])
                    for sentence in documents[other][start:]:
                        b.append(sentence)
                        if sum(length[b]) >= target - sum(length[a]):
                            break
                    i -= len(chunk) - a_end
                else:
                    b = chunk[a_end:]
                yield chunk[0], target, a, b, random
                chunk = []
            i += 1


@pytest.mark.parametrize(("documents", "epoch"), [(40, 0), (40, 5), (2, 1)])
def test_an_epoch_is_what_the_authors_loop_makes(tokenizer, documents, epoch):
    of = corpus(documents)
    pairs = Pairs(of, tokenizer, T, SEED)
    expected = sorted(loop(of, epoch))
    plan = pairs.plan(np.sort(pairs.starts(epoch)), epoch)
    assert plan.a.tolist() == [start for start, *_ in expected]
    for i, (_, _, a, b, random) in enumerate(expected):
        assert list(range(plan.a[i], plan.a_end[i])) == a
        assert list(range(plan.b[i], plan.b_end[i])) == b
        assert plan.random_next[i] == random


def document_of(of, sentence):
    return np.searchsorted(of.first, sentence, side="right")


def test_shares_and_the_other_document(tokenizer):
    of = corpus(3000)
    pairs = Pairs(of, tokenizer, T, SEED)
    plans = [pairs.plan(pairs.starts(epoch), epoch) for epoch in range(2)]
    for epoch, plan in enumerate(plans):
        here, there = document_of(of, plan.a), document_of(of, plan.b)
        random = plan.random_next == 1
        assert (here[random] != there[random]).all()
        assert (plan.b[~random] == plan.a_end[~random]).all()
        assert (plan.b_end <= of.last[there - 1]).all()
        end = np.minimum(of.last[here - 1], np.searchsorted(of.offsets, of.offsets[plan.a] + ROOM))
        target = {start: target for start, target, *_ in loop(of, epoch)}
        whole = np.array([target[start] == ROOM for start in plan.a])
        lone = whole & (end - plan.a == 1)
        assert random[lone].all()
        assert abs(random[whole & ~lone].mean() - 0.5) < 0.02
        assert np.bincount(there[random] - 1, minlength=3000).max() < 40  # no favourites
        of_document = dict(zip(here.tolist(), whole.tolist(), strict=True))
        assert abs(np.mean(list(of_document.values())) - (1 - 0.1 * (ROOM - 2) / (ROOM - 1))) < 0.02
        assert {2, ROOM - 1} <= set(target.values())
    assert len(plans[0].a) != len(plans[1].a)


def test_what_is_too_long_is_cut_from_the_longer_at_either_end(tokenizer):
    of = corpus(2000)
    pairs = Pairs(of, tokenizer, T, SEED)
    plan = pairs.plan(pairs.starts(0), 0)
    spans = pairs.spans(plan, 0)
    at_front = cut = 0
    for i, ((a0, a1), (b0, b1)) in enumerate(zip(spans[::2], spans[1::2], strict=True)):
        first, second = (
            range(of.offsets[s], of.offsets[e]) for s, e in ((plan.a[i], plan.a_end[i]), (plan.b[i], plan.b_end[i]))
        )
        x, y = len(first), len(second)
        while x + y > ROOM:
            if x > y:
                x -= 1
            else:
                y -= 1
        assert (a1 - a0, b1 - b0) == (x, y)
        assert first.start <= a0 < a1 <= first.stop
        assert second.start <= b0 < b1 <= second.stop
        at_front += a0 - first.start + b0 - second.start
        cut += len(first) + len(second) - x - y
    assert abs(at_front / cut - 0.5) < 0.02


def test_sequences(tokenizer):
    of = corpus(40)
    vocabulary = tokenizer.tokenizer.get_vocab()
    pieces = [vocabulary[p] for p in ("w", "##o", "##r", "t")]
    of.tokens = np.array(pieces)[np.arange(len(of.tokens)) % 4]
    pairs = Pairs(of, tokenizer, T, SEED)
    starts = pairs.starts(0)[:20]
    batch = pairs[[0, *starts.tolist()]]
    spans = pairs.spans(pairs.plan(starts, 0), 0)
    for row, ((a0, a1), (b0, b1)) in enumerate(zip(spans[::2], spans[1::2], strict=True)):
        a, b = of.tokens[a0:a1].tolist(), of.tokens[b0:b1].tolist()
        used, rest = len(a) + len(b) + 3, T - len(a) - len(b) - 3
        assert batch.tokens[row].tolist() == [2, *a, 3, *b, 3] + [0] * rest
        assert batch.segment[row].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * rest
        assert batch.mask[row].tolist() == [True] * used + [False] * rest
        word, words = -1, []
        for part in (a, b):
            words.append(-1)
            for i, piece in enumerate(part):
                word += i == 0 or piece in (pieces[0], pieces[3])
                words.append(word)
        assert batch.word[row].tolist() == [*words, -1] + [-2] * rest
    assert batch.index.tolist() == starts.tolist()
    assert batch.label.tolist() == [-1] * 20


def test_batches_of_two_processes_are_those_of_one(tokenizer):
    pairs = Pairs(corpus(300), tokenizer, T, SEED)
    one = PairBatches(pairs, 16, 0, 1)
    two = [PairBatches(pairs, 8, rank, 2) for rank in range(2)]
    for epoch in (0, 4):
        for batches in (one, *two):
            batches.set_epoch(epoch)
        joint = [[epoch, *a[1:], *b[1:]] for a, b in zip(*two, strict=True)]
        assert joint == list(one)
        assert len(joint) == len(one) == len(pairs.starts(0)) // 16
        assert set(np.concatenate([batch[1:] for batch in joint])) <= set(pairs.starts(epoch).tolist())
    few = Pairs(corpus(2), tokenizer, T, SEED)
    with pytest.raises(ValueError, match="set batch_size to at most"):
        PairBatches(few, 1000)


def test_held_out_pairs_depend_on_nothing(tokenizer, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "9")
    of = corpus(40)
    of.tokens %= 50
    held = HeldOutPairs(of, tokenizer, T)
    whole = held[list(range(len(held)))]
    assert whole.index.tolist() == list(range(len(held)))
    again = HeldOutPairs(of, tokenizer, T)[[5, 2]]
    assert torch.equal(again.tokens, whole.tokens[[5, 2]])
    assert len(held[[]].tokens) == 0
