"""Pairs of token sequences, such as sentences and their translations."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batch import EOS, PAD, UNKNOWN, PairBatch
from datamodules.data import Data
from datamodules.loader import EpochBatches, Loader, TrainLoader

NO_WORDS = ("<pad>", "<s>", "</s>", "<unk>")  # the tokens before the words
Pair = tuple[Sequence[str], Sequence[str]]  # words of source and target


def tokens_of(sentences: Sequence[Sequence[str]], words: Sequence[str]) -> list[list[int]]:
    """The token numbers of each sentence, EOS at its end, UNKNOWN for what is not among the words."""
    number = {word: place for place, word in enumerate(words, start=len(NO_WORDS))}
    return [[*(number.get(word, UNKNOWN) for word in sentence), EOS] for sentence in sentences]


def padded(rows: Sequence[Sequence[int] | np.ndarray]) -> Tensor:
    """(B, T) int64 with T of the longest row, PAD at the end of the others."""
    out = np.full((len(rows), max(map(len, rows), default=1)), PAD, dtype=np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return torch.from_numpy(out)


class Sequences:
    """N sequences of token numbers, in one array."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.ends = np.cumsum([0, *map(len, rows)])
        self.tokens = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=self.ends[-1])

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        return padded([self.tokens[self.ends[i] : self.ends[i + 1]] for i in indices])


class Pairs(Dataset[PairBatch]):
    """A set of N pairs: `pairs[[i, j]]` is the batch of the two.

    Args:
        pairs: Words of sources and targets.
        words: The vocabulary.
    """

    def __init__(self, pairs: Sequence[Pair], words: Sequence[str]) -> None:
        self.source, self.target = (Sequences(tokens_of([pair[side] for pair in pairs], words)) for side in (0, 1))
        self.n = len(pairs)
        self.longest = 1 + max((len(side) for pair in pairs for side in pair), default=0)  # with EOS

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, indices: Sequence[int]) -> PairBatch:
        index = torch.tensor(indices, dtype=torch.int64)
        return PairBatch(self.source[indices], self.target[indices], torch.full_like(index, -1), index)


class PairData(Data):
    """Pairs of sequences of words, for Transformer. A data set is a subclass that says in `pairs` what they are.

    Source and target share one vocabulary, the most frequent words of the training pairs. Validation, test and
    `predict` read the held-out pairs; without any there is no evaluation.

    Args:
        max_words: Size of the vocabulary at most; every other word is `<unk>`.
        batch_size: Pairs in a batch of one process.
        num_workers: Processes per loader that read; 0 reads in the training process.
        seed: Decides the order; by default the seed of the run (--seed_everything).

    Attributes:
        words: The vocabulary, the most frequent word first.
        vocab_size: Number of tokens: the words, and four that stand for none.

    Raises:
        ValueError: a number is out of range.
    """

    unit = "pairs"

    def __init__(
        self, max_words: int = 37000, batch_size: int = 64, num_workers: int = 0, seed: int | None = None
    ) -> None:
        super().__init__([], batch_size, num_workers, seed)
        self.max_words = max_words
        self._at_least(max_words=1)
        train, held_out = self.pairs()
        count = Counter(word for pair in train for side in pair for word in side)
        self.words = sorted(count, key=lambda word: (-count[word], word))[:max_words]
        self.vocab_size = len(NO_WORDS) + len(self.words)
        self.train, self.held_out = Pairs(train, self.words), Pairs(held_out, self.words)

    @abstractmethod
    def pairs(self) -> tuple[list[Pair], list[Pair]]:
        """To learn from, and to ask about."""

    @property
    def shape(self) -> str:
        return f"up to {self.train.longest} tokens of {self.vocab_size:,}"

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not len(self.held_out):
            self._switch_off_evaluation(stage)

    def train_dataloader(self) -> TrainLoader:
        return self._training(self.train, EpochBatches(len(self.train), self.batch_size, self.seed))

    def _queries(self, role: str) -> list[Loader] | Loader:
        return self._evaluation(role, self.held_out) if len(self.held_out) else []

    def val_dataloader(self) -> list[Loader] | Loader:
        """The held-out pairs, in order; [] if there are none."""
        return self._queries("val")

    def test_dataloader(self) -> list[Loader] | Loader:
        """The held-out pairs, in order; [] if there are none."""
        return self._queries("test")

    def predict_dataloader(self) -> Loader:
        """The held-out pairs in order, or the training pairs if there are none."""
        pairs = self.held_out if len(self.held_out) else self.train
        return self._evaluation("predict", pairs)

    def transfer_batch_to_device(self, batch: PairBatch, device: torch.device, dataloader_idx: int) -> PairBatch:
        source, target, label = (x.to(device, non_blocking=True) for x in batch[:3])
        return PairBatch(source, target, label, batch.index)


class PairsFile(PairData):
    """Your own pairs: a UTF-8 file of lines `source TAB target`, the words of each divided by spaces.

    The file is read whole into memory.

    Args:
        path: The training pairs.
        val_path: The held-out pairs, such a file too; None: there are none.
        max_length: A pair with more words in its source or its target is left out of training.
        kwargs: Vocabulary and batches, see PairData.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no pair, or no pair is left.
    """

    def __init__(self, path: str, val_path: str | None = None, max_length: int = 100, **kwargs: Any) -> None:
        self.path, self.val_path, self.max_length = path, val_path, max_length
        super().__init__(**kwargs)

    def pairs(self) -> tuple[list[Pair], list[Pair]]:
        pairs = read_pairs(self.path)
        train = [pair for pair in pairs if max(map(len, pair)) <= self.max_length]
        if not train:
            raise ValueError(
                f"none of the {len(pairs)} pairs of {self.path} has at most {self.max_length} words: raise max_length"
            )
        self.left_out = len(pairs) - len(train)
        return train, read_pairs(self.val_path) if self.val_path else []

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.left_out:
            rank_zero_info(f"{self.left_out} pairs of more than {self.max_length} words are left out of training")


def read_pairs(path: str) -> list[Pair]:
    """The pairs of a file, see PairsFile.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no pair, or there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path} with lines 'source TAB target'")
    pairs: list[Pair] = []
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                sides = [side.split() for side in line.split("\t")]
                if len(sides) != 2 or not all(sides):
                    raise ValueError(
                        f"{path}, line {number}: expected 'source TAB target' with a word on both sides, got "
                        f"{line.strip(chr(10))[:60]!r}"
                    )
                pairs.append((sides[0], sides[1]))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}; convert it") from error
    if not pairs:
        raise ValueError(f"{path} is empty: it takes lines 'source TAB target'")
    return pairs
