"""Text for every method: pairs of sentences to learn from, labelled sentences for the evaluations."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.batch import TextBatch
from datamodules.corpus import Corpus
from datamodules.data import Data
from datamodules.loader import Loader, TrainLoader
from datamodules.pairs import SPECIAL, HeldOutPairs, PairBatches, Pairs, Sequences
from datamodules.tokenizer import Tokenized
from datamodules.word_pieces import MASK, VOCAB_SIZE, WordPiece, train
from datamodules.word_pieces import SPECIAL as SPECIAL_TOKENS


class Labelled(NamedTuple):
    """Sentences with classes.

    Args:
        sentences: N sentences.
        label: N class numbers.
    """

    sentences: list[str]
    label: list[int]


class Texts(NamedTuple):
    """The parts of a data set.

    Args:
        train: The documents to learn from.
        val: Documents held out for validation; None if there are none.
        test: Documents held out for the test; None if there are none.
        bank: Labelled sentences that the evaluations learn from; None without labels.
        queries: Labelled sentences to ask about; None without labels.
    """

    train: Corpus
    val: Corpus | None
    test: Corpus | None
    bank: Labelled | None = None
    queries: Labelled | None = None


class Sentences(Dataset[TextBatch]):
    """Labelled sentences, one a sequence; what does not fit is cut off.

    Args:
        labelled: The sentences.
        tokenizer: The tokenizer.
        max_tokens: Length of a sequence.
    """

    def __init__(self, labelled: Labelled, tokenizer: WordPiece, max_tokens: int) -> None:
        self.names = labelled.sentences
        self.tokens = [np.array(ids[: max_tokens - 2]) for ids in tokenizer.encode(labelled.sentences)]
        self.label = np.array(labelled.label, dtype=np.int64)
        self.sequences = Sequences(tokenizer, max_tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: list[int]) -> TextBatch:
        index = np.array(rows, dtype=np.int64)
        return self.sequences.batch([(self.tokens[row],) for row in rows], self.label[index], index)


class TextData(Tokenized[WordPiece], Data):
    """Text for representation learning. A data set is a subclass that says in `texts` what its parts are.

    A training batch holds pairs of sentences, see `TextBatch`; which tokens are masked is the method's affair. An
    epoch's pairs are made as BERT's (datamodules/pairs.py), anew for every epoch, equal on any number of processes.
    Validation and test have the loaders [bank, queries, held-out pairs], the first two of labelled sentences, as far as
    there are such data.

    Args:
        max_tokens: Length of a sequence in tokens, [CLS] and [SEP] among them.
        tokenizer: A tokenizer.json, or a folder with one, such as Hugging Face's. None: that of the checkpoint, or one
            is trained on the sentences.
        vocab_size: Pieces of the tokenizer that is trained; a given one has its own.
        lowercase: Whether the tokenizer that is trained makes capitals small letters.
        class_names: Names of the classes of labelled sentences.
        batch_size: Pairs, or labelled sentences, in a batch of one process.
        num_workers: Processes per loader that make batches; 0 makes them in the training process.
        seed: Decides pairs and their order; by default the seed of the run (--seed_everything).

    Raises:
        FileNotFoundError: there is no such tokenizer.
        ValueError: a size is out of range, or `vocab_size` is not that of the tokenizer.
        ModuleNotFoundError: the extra `text` is not installed.
    """

    unit = "pairs"
    tokenizer_class, default_vocab_size = WordPiece, VOCAB_SIZE

    def __init__(
        self,
        max_tokens: int = 128,
        tokenizer: str | None = None,
        vocab_size: int | None = None,
        lowercase: bool = True,
        class_names: list[str] | None = None,
        batch_size: int = 256,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(class_names or [], batch_size, num_workers, seed)
        self.max_tokens, self.lowercase = max_tokens, lowercase
        self.mask_token = SPECIAL_TOKENS.index(MASK)
        self.choose_tokenizer(tokenizer, vocab_size)
        self._at_least(max_tokens=SPECIAL + 2, vocab_size=len(SPECIAL_TOKENS) + 1)
        self._texts: Texts | None = None
        self._pairs: dict[str, HeldOutPairs] = {}
        self._sentences: dict[str, Sentences] = {}

    @property
    def shape(self) -> str:
        return f"{self.max_tokens} tokens, {self.vocab_size:,} pieces"

    def take_tokenizer(self, pieces: WordPiece, source: str) -> None:
        super().take_tokenizer(pieces, source)
        self.mask_token = pieces.mask

    @abstractmethod
    def sentences(self) -> Iterator[str]:
        """What a tokenizer is trained on; called twice."""

    @abstractmethod
    def texts(self, tokenizer: WordPiece) -> Texts:
        """The parts of the data set, called once per process after `prepare_data`."""

    def trained(self) -> str:
        """The JSON of the tokenizer trained on the sentences, the same in every process."""
        return train(self.sentences, self.vocab_size, self.lowercase)

    def setup(self, stage: str) -> None:
        """
        Raises:
            ValueError: there are fewer than 2 documents, of which none can be the other's random next.
        """
        if self._texts is None:
            if self.pieces is None:
                self.take_tokenizer(WordPiece(self.trained()), "the tokenizer")
            assert self.pieces is not None
            self._texts = self.texts(self.pieces)
            if (n := len(self._texts.train)) < 2:
                raise ValueError(
                    f"{n} training document(s), but a random next sentence comes from another one: give more "
                    "documents, parted by empty lines"
                )
        super().setup(stage)
        pairs, queries = self._held_out(stage), self._texts.queries
        if pairs is None and queries is None:
            self._switch_off_evaluation(stage)

    def _ready(self) -> tuple[Texts, WordPiece]:
        if self._texts is None or self.pieces is None:
            raise ValueError("the data are not set up: call prepare_data() and setup(stage) first")
        return self._texts, self.pieces

    def _held_out(self, stage: str) -> Corpus | None:
        texts, _ = self._ready()
        return texts.test if stage == "test" else texts.val

    @property
    def names(self) -> list[str] | None:
        """The sentences that `predict` describes."""
        queries = self._ready()[0].queries
        return None if queries is None else queries.sentences

    def train_dataloader(self) -> TrainLoader:
        texts, tokenizer = self._ready()
        pairs = Pairs(texts.train, tokenizer, self.max_tokens, self.seed)
        return self._training(pairs, PairBatches(pairs, self.batch_size))

    def _labelled(self, role: str, part: str) -> Loader:
        texts, tokenizer = self._ready()
        if part not in self._sentences:
            self._sentences[part] = Sentences(getattr(texts, part), tokenizer, self.max_tokens)
        return self._evaluation(f"{role} {part}", self._sentences[part])

    def _evaluations(self, role: str) -> list[Loader]:
        texts, tokenizer = self._ready()
        loaders = []
        if texts.bank is not None and texts.queries is not None:
            loaders += [self._labelled(role, part) for part in ("bank", "queries")]
        if (corpus := self._held_out(role)) is not None:
            if role not in self._pairs:
                self._pairs[role] = HeldOutPairs(corpus, tokenizer, self.max_tokens)
            loaders.append(self._evaluation(role, self._pairs[role]))
        return loaders

    def val_dataloader(self) -> list[Loader]:
        """[bank, queries, held-out pairs], as far as there are such."""
        return self._evaluations("val")

    def test_dataloader(self) -> list[Loader]:
        """[bank, queries, held-out pairs], as far as there are such."""
        return self._evaluations("test")

    def predict_dataloader(self) -> Loader:
        """The labelled queries.

        Raises:
            ValueError: there are none.
        """
        if self._ready()[0].queries is None:
            raise ValueError(f"{type(self).__name__} has no labelled sentences, which predict describes")
        return self._labelled("predict", "queries")

    def transfer_batch_to_device(self, batch: TextBatch, device: torch.device, dataloader_idx: int) -> TextBatch:
        here = ("word", "index")
        parts = {name: part for name, part in batch._asdict().items() if part is not None and name not in here}
        return batch._replace(**{name: part.to(device, non_blocking=True) for name, part in parts.items()})
