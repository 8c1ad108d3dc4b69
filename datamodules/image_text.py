"""Images with captions: what the data sets of image-text methods share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.batch import ImageBatch, ImageTextBatch
from datamodules.byte_pairs import LEAST, VOCAB_SIZE, BytePairs, train
from datamodules.draws import uniform
from datamodules.images import ImageData
from datamodules.sets import Images, whole
from datamodules.tokenizer import Tokenized

CAPTION_DRAW = 0xCA9  # parts this draw from those of the views


class Captions:
    """The captions of N images as tokens, of which each epoch takes another one.

    Args:
        captions: The captions of each image.
        tokenizer: The tokenizer.
        max_tokens: Length of a sequence.
    """

    def __init__(self, captions: Iterable[list[str]], tokenizer: BytePairs, max_tokens: int) -> None:
        dtype = np.uint16 if tokenizer.size <= 2**16 else np.int32
        rows = [tokenizer(of_one, max_tokens).astype(dtype) for of_one in captions]
        self.counts = torch.tensor([len(row) for row in rows])
        self.first = self.counts.cumsum(0) - self.counts
        self.tokens = np.concatenate(rows)  # (captions, T)

    def draw(self, index: Tensor, *key: int) -> Tensor:
        """(B,) places of images -> (B, T) int64 tokens of a caption of each, drawn by (key, image)."""
        rows = self.first[index] + chosen(index, self.counts[index], *key)
        return torch.from_numpy(self.tokens[rows.numpy()].astype(np.int64))


def chosen(index: Tensor, counts: Tensor, *key: int) -> Tensor:
    """Which of its captions each image shows: (B,) int64, uniform in [0, counts)."""
    return (uniform(index, 1, *key, CAPTION_DRAW)[:, 0] * counts).long()


class ImageTextData(Tokenized[BytePairs], ImageData, ABC):
    """Images with one or more captions each. A data set is a subclass that says in `captions` what they are.

    A training batch is an `ImageTextBatch`; the caption of an image is drawn by (seed, epoch, image). Evaluation sees
    the images alone, and asks `captions` for all captions of the held-out ones.

    Args:
        max_tokens: Length of a caption in tokens, with start and end; what does not fit is cut off.
        tokenizer: A tokenizer.json, or a folder with one, such as Hugging Face's. None: that of the checkpoint, or one
            is trained on the training captions.
        vocab_size: Pieces of the tokenizer that is trained; a given one has its own.
        kwargs: Images, see ImageData.

    Raises:
        FileNotFoundError: there is no such tokenizer.
        ValueError: a size is out of range, or `vocab_size` is not that of the tokenizer.
        ModuleNotFoundError: the extra `text` is not installed.
    """

    tokenizer_class, default_vocab_size = BytePairs, VOCAB_SIZE

    def __init__(
        self, max_tokens: int = 77, tokenizer: str | None = None, vocab_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.max_tokens = max_tokens
        self.choose_tokenizer(tokenizer, vocab_size)
        if self.pieces is None:
            self.end_token = self.vocab_size - 1
        for name, least in {"max_tokens": 3, "vocab_size": LEAST}.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self._captions: Captions | None = None

    def take_tokenizer(self, pieces: BytePairs, source: str) -> None:
        super().take_tokenizer(pieces, source)
        self.end_token = pieces.end

    @abstractmethod
    def captions(self, images: Images) -> list[list[str]]:
        """The captions of each image of a set that `splits` has given, or is a part of."""

    def all_captions(self) -> Iterable[str]:
        """What a tokenizer is trained on."""
        return chain.from_iterable(self.captions(whole(self._ready().train)))

    def setup(self, stage: str) -> None:
        self._refuse_unlabelled()
        super().setup(stage)
        if self.pieces is None:
            self.take_tokenizer(BytePairs(train(self.all_captions(), self.vocab_size)), "the tokenizer")
        if self._captions is None and stage == "fit":
            assert self.pieces is not None
            self._captions = self._training_captions(self.pieces)

    def _training_captions(self, tokenizer: BytePairs) -> Captions | None:
        return Captions(self.captions(whole(self._ready().train)), tokenizer, self.max_tokens)

    def on_before_batch_transfer(
        self, batch: ImageBatch | ImageTextBatch, dataloader_idx: int
    ) -> ImageBatch | ImageTextBatch:
        assert self.trainer is not None
        if self.trainer.training and isinstance(batch, ImageBatch):
            assert self._captions is not None
            tokens = self._captions.draw(batch.index, self.seed, self.trainer.current_epoch)
            return ImageTextBatch(batch.image, batch.label, batch.index, tokens)
        return batch
