"""Pairs of sentences as BERT learns from them, made anew in every epoch.

Devlin et al., 2018, https://arxiv.org/abs/1810.04805, appendix A.2, and the authors' create_pretraining_data.py.

A document is gone through from its start. Sentences are taken until they have the target length in tokens, that of the
sequence or, for one document in ten, a random shorter one. They are cut into A and B between two of them. In half of
the cases, and where there is only one, B is replaced by sentences from a random place of another document, and those
that were to be B come again in the next pair. What is too long is cut from the longer of A and B, token by token from
its front or its end.

Every random number is a hash of (seed, epoch, first sentence of A), the target length one of (seed, epoch, document).
So a pair is made of its first sentence alone, by any process, and the epoch's list holds no more than that: 8 bytes a
pair, made in one pass over the offsets of the sentences.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.batch import TextBatch
from datamodules.corpus import Corpus
from datamodules.draws import uniform
from datamodules.loader import EpochBatches
from datamodules.word_pieces import WordPiece

SHORT = 0.1  # share of documents whose pairs are shorter
RANDOM = 0.5
SPECIAL = 3  # [CLS], [SEP], [SEP]
_LENGTHS, _PAIRS, _CUTS = range(3)  # keys of the draws
_BLOCK = 2**16  # documents gone through at a time


class Plan(NamedTuple):
    """B pairs by the places of their sentences in the corpus, each (B,) int64.

    Args:
        a: First sentence of A.
        a_end: The sentence after A.
        b: First sentence of B.
        b_end: The sentence after B.
        random_next: 1 where B is from another document.
        after: Where the next pair of the document starts.
    """

    a: np.ndarray
    a_end: np.ndarray
    b: np.ndarray
    b_end: np.ndarray
    random_next: np.ndarray
    after: np.ndarray


class Pairs(Dataset[TextBatch]):
    """The pairs of a corpus: `pairs[[epoch, s, t]]` is the batch of those that start with the sentences s and t.

    Args:
        corpus: At least 2 documents.
        tokenizer: The tokenizer.
        max_tokens: Length of a sequence (T).
        seed: Together with the epoch decides the pairs.
    """

    def __init__(self, corpus: Corpus, tokenizer: WordPiece, max_tokens: int, seed: int) -> None:
        self.corpus, self.max_tokens, self.seed = corpus, max_tokens, seed
        self.sequences = Sequences(tokenizer, max_tokens)

    def plan(self, starts: np.ndarray, epoch: int) -> Plan:
        """The pairs that start with these sentences."""
        offsets, firsts, lasts = self.corpus.offsets, self.corpus.first, self.corpus.last
        of = np.searchsorted(firsts, starts, side="right") - 1  # their documents
        room = self.max_tokens - SPECIAL
        short = self._uniform(of, 2, epoch, _LENGTHS)
        target = np.where(short[:, 0] < SHORT, 2 + (short[:, 1] * (room - 1)).astype(np.int64), room)
        end = np.minimum(np.searchsorted(offsets, offsets[starts] + target), lasts[of])
        n = end - starts

        draws = self._uniform(starts, 6, epoch, _PAIRS)
        a_end = starts + np.where(n > 1, 1 + (draws[:, 0] * (n - 1)).astype(np.int64), 1)
        random = (n == 1) | (draws[:, 1] < RANDOM)
        other = _pick(draws[:, 2:4], len(firsts) - 1)
        other += other >= of
        first, last = firsts[other], lasts[other]
        start = first + _pick(draws[:, 4:6], last - first)
        missing = target - (offsets[a_end] - offsets[starts])
        stop = np.clip(np.searchsorted(offsets, offsets[start] + missing), start + 1, last)
        b, b_end = np.where(random, start, a_end), np.where(random, stop, end)
        return Plan(starts, a_end, b, b_end, random.astype(np.int64), np.where(random, a_end, end))

    def starts(self, epoch: int) -> np.ndarray:
        """(P,) int64: the first sentences of all pairs of an epoch."""
        return np.concatenate(list(self._starts(epoch)))

    def _starts(self, epoch: int) -> Iterator[np.ndarray]:
        for block in range(0, len(self.corpus), _BLOCK):
            starts, ends = (np.array(of[block : block + _BLOCK]) for of in (self.corpus.first, self.corpus.last))
            while len(starts):
                yield starts
                after = self.plan(starts, epoch).after
                starts, ends = after[after < ends], ends[after < ends]

    def spans(self, plan: Plan, epoch: int) -> list[tuple[int, int]]:
        """First and last + 1 token of A and B of each pair, cut to the room there is: A, B, A, B, ..."""
        offsets = self.corpus.offsets
        a, a_end, b, b_end = (offsets[place] for place in plan[:4])
        first, second = a_end - a, b_end - b
        excess = np.maximum(first + second - (self.max_tokens - SPECIAL), 0)
        from_longer = np.minimum(excess, np.abs(first - second))
        rest = excess - from_longer  # of two equally long ones, the second in turn with the first
        cut_a = np.where(first > second, from_longer, 0) + rest // 2
        cut_b = np.where(first > second, 0, from_longer) + (rest + 1) // 2
        front_a, front_b = np.zeros_like(cut_a), np.zeros_like(cut_b)
        for i in np.flatnonzero(excess):
            draws = np.random.default_rng([self.seed, epoch, _CUTS, int(plan.a[i])])
            front_a[i], front_b[i] = draws.binomial(cut_a[i], 0.5), draws.binomial(cut_b[i], 0.5)
        ends = (a + front_a, a_end - cut_a + front_a, b + front_b, b_end - cut_b + front_b)
        return [span for row in np.stack(ends, 1).tolist() for span in ((row[0], row[1]), (row[2], row[3]))]

    def batch(self, starts: np.ndarray, epoch: int, index: np.ndarray) -> TextBatch:
        """The pairs that start with these sentences, under the given places (B,) in the data set."""
        plan = self.plan(starts, epoch)
        parts = self.corpus.read(self.spans(plan, epoch))
        batch = self.sequences.batch(list(zip(parts, parts, strict=True)), np.full(len(starts), -1), index)
        return batch._replace(random_next=torch.from_numpy(plan.random_next))

    def __getitem__(self, places: list[int]) -> TextBatch:
        starts = np.array(places[1:], dtype=np.int64)
        return self.batch(starts, places[0], starts)

    def _uniform(self, index: np.ndarray, n: int, epoch: int, what: int) -> np.ndarray:
        return uniform(torch.from_numpy(index), n, self.seed, epoch, what).numpy().astype(np.float64)


def _pick(draws: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """(B,) int64 below n, from (B, 2) draws of 24 bits each."""
    return ((draws[:, 0] + draws[:, 1] * 2.0**-24) * n).astype(np.int64)


class HeldOutPairs(Dataset[TextBatch]):
    """The pairs of one pass over held-out documents, in order: the same ones whatever the seed and the epoch.

    Args:
        corpus: At least 2 documents.
        tokenizer: The tokenizer.
        max_tokens: Length of a sequence (T).
    """

    def __init__(self, corpus: Corpus, tokenizer: WordPiece, max_tokens: int) -> None:
        self.pairs = Pairs(corpus, tokenizer, max_tokens, seed=0)
        self.starts = np.sort(self.pairs.starts(0))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: list[int]) -> TextBatch:
        index = np.array(rows, dtype=np.int64)
        return self.pairs.batch(self.starts[index], 0, index)


class PairBatches(EpochBatches):
    """The training batches of one process: the epoch's number and the first sentences of its pairs, shuffled.

    An epoch has as many batches as the pairs of the first one fill, so that the run's length is known. Where another
    epoch makes more pairs, as many by chance are left out, where fewer, the first come twice.

    Args:
        pairs: The pairs.
        batch_size: Pairs in a batch of one process.
        rank: This process's number; None asks torch.distributed.
        world: How many processes there are; None asks torch.distributed.

    Raises:
        ValueError: if the pairs do not fill one batch of every process.
    """

    def __init__(self, pairs: Pairs, batch_size: int, rank: int | None = None, world: int | None = None) -> None:
        super().__init__(len(pairs.starts(0)), batch_size, pairs.seed, rank, world)
        self.pairs = pairs

    def order(self) -> np.ndarray:
        starts = self.pairs.starts(self.epoch)
        return np.resize(starts[np.random.default_rng([self.seed, self.epoch]).permutation(len(starts))], self.n)

    def __iter__(self) -> Iterator[list[int]]:
        for starts in super().__iter__():
            yield [self.epoch, *starts]


class Sequences:
    """Puts tokens into sequences: [CLS] A [SEP] or [CLS] A [SEP] B [SEP], padded at the end.

    Args:
        tokenizer: The tokenizer.
        max_tokens: Length of a sequence (T).
    """

    def __init__(self, tokenizer: WordPiece, max_tokens: int) -> None:
        self.max_tokens, self.continues = max_tokens, tokenizer.continues
        self.pad, self.cls, self.sep = tokenizer.pad, tokenizer.cls, tokenizer.sep

    def batch(self, rows: list[tuple[np.ndarray, ...]], label: np.ndarray, index: np.ndarray) -> TextBatch:
        """The sequences of B rows of one or two sentences, which fit."""
        tokens = np.full((len(rows), self.max_tokens), self.pad, dtype=np.int64)
        segment, kind = np.zeros_like(tokens), np.full_like(tokens, -2)  # of a token: 0; [CLS], [SEP]: -1; padding: -2
        for row, parts in enumerate(rows):
            tokens[row, 0], kind[row, 0], place = self.cls, -1, 1
            for number, part in enumerate(parts):
                end = place + len(part)
                tokens[row, place:end], kind[row, place:end] = part, 0
                tokens[row, end], kind[row, end] = self.sep, -1
                segment[row, place : end + 1] = number
                place = end + 1
        begins = kind == 0
        begins[:, 1:] &= ~self.continues[tokens[:, 1:]] | (kind[:, :-1] < 0)  # a piece cut from its word is one
        word = np.where(kind == 0, begins.cumsum(1) - 1, kind)
        arrays = (tokens, segment, kind > -2, word, label.astype(np.int64), index)
        return TextBatch(*map(torch.from_numpy, arrays))
