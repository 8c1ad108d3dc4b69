"""Word sequences and their reversals: the task of a few minutes for a method that learns from pairs."""

import re
from typing import Any

import torch

from datamodules.draws import uniform
from datamodules.pairs_file import Pair, PairData
from datamodules.python_docs import documents

HELD_OUT = 10  # one sentence of so many


class Reversal(PairData):
    """Word sequences of the Python reference (PythonDocs) and the same words in reverse order; no download.

    In the training sentences a sequence starts at every word, its length being drawn evenly from `min_length` to
    `max_length`, once and for all. One sentence of ten is held out: it is cut into such sequences, of which those that
    occur in training are left out, and repeated ones are kept once.

    Args:
        min_length: Least words of a sequence.
        max_length: Most words of a sequence.
        max_words: Size of the vocabulary at most; every other word is `<unk>`.
        kwargs: Batches and order, see PairData.

    Raises:
        ValueError: a number is out of range, or no sentence has so many words.
    """

    def __init__(self, min_length: int = 4, max_length: int = 10, max_words: int = 1000, **kwargs: Any) -> None:
        if not 1 <= min_length <= max_length:
            raise ValueError(f"1 <= min_length <= max_length must hold, got {min_length} and {max_length}")
        self.min_length, self.max_length = min_length, max_length
        super().__init__(max_words=max_words, **kwargs)

    def pairs(self) -> tuple[list[Pair], list[Pair]]:
        sentences = [re.findall(r"\w+", text.lower()) for topic in documents() for text in topic]
        train = self.cut([s for i, s in enumerate(sentences) if i % HELD_OUT], everywhere=True)
        known = set(train)
        held_out = self.cut(sentences[::HELD_OUT], everywhere=False)
        asked = [words for words in dict.fromkeys(held_out) if words not in known]
        if not train or not asked:
            raise ValueError(f"too few sentences have {self.min_length} words: lower min_length")
        return [(words, words[::-1]) for words in train], [(words, words[::-1]) for words in asked]

    def cut(self, sentences: list[list[str]], everywhere: bool) -> list[tuple[str, ...]]:
        """Sequences from each word on, or one after another."""
        found = []
        longer = self.max_length - self.min_length + 1
        for place, sentence in enumerate(sentences):
            drawn = uniform(torch.tensor([place]), len(sentence), 0)[0] * longer
            lengths = [self.min_length + int(extra) for extra in drawn.tolist()]
            start = 0
            while start + self.min_length <= len(sentence):
                found.append(tuple(sentence[start : start + lengths[start]]))
                start += 1 if everywhere else lengths[start]
        return found
