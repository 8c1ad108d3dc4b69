"""Byte-level BPE tokenizers of CLIP's kind: lower case, a start and an end token.

Sennrich, Haddow, Birch, 2015, https://arxiv.org/abs/1508.07909; Radford et al., 2021, https://arxiv.org/abs/2103.00020
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datamodules.tokenizer import Tokenizer, library

START, END = "<|startoftext|>", "<|endoftext|>"
VOCAB_SIZE = 49_408
LEAST = 256 + 2  # the bytes, the start and the end


def train(captions: Iterable[str], vocab_size: int = VOCAB_SIZE) -> str:
    """Train a tokenizer that loses nothing: every byte is a piece. Case and the number of spaces do not count.

    The two last numbers are the start and the end: the end is the largest, by which other libraries find it. OpenAI's
    marks the ends of words, which drops bytes that no training text ends with; here a word begins with its space.
    Where the captions have fewer pieces than asked for, <|unused0|>, <|unused1|>, ... fill up the vocabulary.

    Args:
        captions: What to train on.
        vocab_size: Number of pieces, at least 258.

    Returns:
        The tokenizer as JSON, the same for the same captions.

    Raises:
        ValueError: `vocab_size` is too small.
        ModuleNotFoundError: tokenizers is not installed.
    """
    if vocab_size < LEAST:
        raise ValueError(f"vocab_size must be at least {LEAST}, the bytes and two special tokens, got {vocab_size}")
    lib = library()
    tokenizer = lib.Tokenizer(lib.models.BPE())
    spaces = lib.normalizers.Replace(lib.Regex(r"\s+"), " ")
    tokenizer.normalizer = lib.normalizers.Sequence(
        [lib.normalizers.NFC(), spaces, lib.normalizers.Strip(), lib.normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = lib.decoders.ByteLevel()
    trainer = lib.trainers.BpeTrainer(
        vocab_size=vocab_size - 2, initial_alphabet=lib.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    state = json.loads(tokenizer.to_str())
    pieces = state["model"]["vocab"]
    found = len(pieces)
    pieces |= {f"<|unused{i - found}|>": i for i in range(found, vocab_size - 2)}
    tokenizer = lib.Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = lib.processors.TemplateProcessing(  # for other libraries: we add them ourselves
        single=f"{START} $A {END}", special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)]
    )
    return str(tokenizer.to_str())


class BytePairs(Tokenizer):
    """A BPE tokenizer with CLIP's two special tokens."""

    kind, special = "BPE", (START, END)

    def __init__(self, text: str, source: str | Path = "the tokenizer") -> None:
        super().__init__(text, source)
        self.start, self.end = self.vocabulary[START], self.vocabulary[END]

    def __call__(self, captions: list[str], length: int) -> np.ndarray:
        """Captions -> (N, length) int64: the start, as many pieces as there is room for, the end, zeros."""
        tokens = np.zeros((len(captions), length), dtype=np.int64)
        for row, caption in zip(tokens, captions, strict=True):  # encode_batch starts threads, which a fork breaks
            ids = self.tokenizer.encode(caption, add_special_tokens=False).ids[: length - 2]
            row[: len(ids) + 2] = [self.start, *ids, self.end]
        return tokens
