"""The choice of tokens: its shares over many sequences, and against a loop over words."""

import pytest
import torch

from datamodules.draws import uniform
from ssl_lightning.token_masks import choose, draws, slots

T, V, MASK = 40, 1000, 4


def sequences(n):
    """`word` (n, T) of pairs of random length, whose words have one to four pieces."""
    word = torch.full((n, T), -2)
    generator = torch.Generator().manual_seed(0)
    for row in word:
        length = int(torch.randint(5, T + 1, (), generator=generator))
        cut = int(torch.randint(2, length - 2, (), generator=generator))
        begins = torch.rand(length, generator=generator) < 0.6
        begins[[1, cut + 1]] = True
        special = torch.zeros(length, dtype=torch.bool)
        special[[0, cut, length - 1]] = True
        row[:length] = torch.where(special, -1, (begins & ~special).cumsum(0) - 1)
    return word


def chosen(word, whole_word, epoch=0):
    u = uniform(torch.arange(len(word)), draws(T), 0, epoch)
    masks = choose(word, u, whole_word)
    picked = torch.zeros(word.shape).scatter(1, masks.position, masks.used).bool()
    assert int(masks.used.sum()) == int(picked.sum())  # different places
    return masks, picked, u


@pytest.mark.parametrize("whole_word", [False, True])
def test_fifteen_per_cent_and_never_a_special_token(whole_word):
    word = sequences(4000)
    length = (word > -2).sum(1)
    total = picks = 0
    for epoch in range(5):
        _, picked, _ = chosen(word, whole_word, epoch)
        assert not picked[word < 0].any()
        wanted = (0.15 * length).round().clamp(min=1)
        counts = picked.sum(1)
        assert (counts == wanted).all() if not whole_word else (counts <= wanted).all()
        assert slots(T) == wanted.max()
        total, picks = total + int(length.sum()), picks + int(picked.sum())
    assert 0.145 < picks / total < 0.155


def test_pieces_are_chosen_alike():
    word = sequences(2000)[:1].expand(4000, -1)
    _, picked, _ = chosen(word, False)
    real = word[0] >= 0
    share = picked.float().mean(0)[real]
    assert (share - share.mean()).abs().max() < 4 * (share.mean() * (1 - share.mean()) / 4000) ** 0.5


def test_whole_words_are_those_of_a_loop():
    word = sequences(500)
    _, picked, u = chosen(word, True)
    for row in range(500):
        n = max(1, round(0.15 * int((word[row] > -2).sum())))
        words = sorted(range(int(word[row].max()) + 1), key=lambda w: u[row, w].item())
        expected: list[int] = []
        for w in words:
            pieces = (word[row] == w).nonzero().flatten().tolist()
            if len(expected) + len(pieces) <= n:
                expected += pieces
        assert sorted(expected) == picked[row].nonzero().flatten().tolist()


def test_eight_in_ten_are_hidden_one_kept_one_random():
    word = sequences(4000)
    tokens = torch.where(word >= 0, torch.randint(10, V, word.shape), 2)
    hidden = kept = other = 0
    seen = torch.zeros(V)
    for epoch in range(4):
        masks, picked, _ = chosen(word, False, epoch)
        new = masks.replaced(tokens, MASK, V)
        assert torch.equal(new[~picked], tokens[~picked])
        was, now = tokens[picked], new[picked]
        hidden += int((now == MASK).sum())
        kept += int((now == was).sum())
        rest = now[(now != MASK) & (now != was)]
        other += len(rest)
        seen += rest.bincount(minlength=V)
    n = hidden + kept + other
    assert abs(hidden / n - 0.8) < 0.01
    assert abs(kept / n - 0.1) < 0.01
    assert abs(other / n - 0.1) < 0.01
    assert seen.mean() > 5
    assert seen.max() < 5 * seen.mean()  # of the whole vocabulary
    assert (seen[:4] > 0).all()  # special pieces too


def test_masks_differ_from_epoch_to_epoch_and_not_with_the_batch():
    word = sequences(200)
    _, one, u = chosen(word, False)
    _, two, _ = chosen(word, False, 1)
    assert not torch.equal(one, two)
    alone = choose(word[7:8], u[7:8])
    assert alone.position[0][alone.used[0] > 0].tolist() == one[7].nonzero().flatten().tolist()


def test_another_share_of_the_tokens():
    word = sequences(2000)
    masks = choose(word, uniform(torch.arange(len(word)), draws(T, 0.4), 0, 0), share=0.4)
    length = (word > -2).sum(1)
    wanted = (0.4 * length).round().minimum((word >= 0).sum(1))
    assert masks.position.shape[1] == slots(T, 0.4) == 16
    assert torch.equal(masks.used.sum(1), wanted)
