"""BERT's WordPiece tokenizers.

Schuster and Nakajima, "Japanese and Korean Voice Search", 2012; Devlin et al., 2018, https://arxiv.org/abs/1810.04805
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.tokenizer import Tokenizer, library

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCAB_SIZE = 30_522
_ALPHABET = 1000  # characters; rarer ones make their word unknown


def train(sentences: Callable[[], Iterable[str]], vocab_size: int = VOCAB_SIZE, lowercase: bool = True) -> str:
    """Train BERT's tokenizer: spaces, punctuation and Chinese characters part words, words are cut into pieces.

    The numbers 0 to 4 are [PAD], [UNK], [CLS], [SEP] and [MASK]. Where the sentences have fewer pieces than asked for,
    [unused0], [unused1], ... fill up the vocabulary, as in the authors'.

    Args:
        sentences: Gives what to train on; called twice.
        vocab_size: Number of pieces.
        lowercase: Whether capitals become small letters and letters lose their accents.

    Returns:
        The tokenizer as JSON, the same for the same sentences.

    Raises:
        ValueError: the sentences have no words, or more characters than `vocab_size` has room for.
        ModuleNotFoundError: tokenizers is not installed.
    """
    lib = library()
    tokenizer = lib.Tokenizer(lib.models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = lib.normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = lib.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = lib.decoders.WordPiece()
    characters, continuing = _alphabet(tokenizer, sentences())
    trainer = lib.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        # the library numbers the continuing characters in the order of a hash table, and so decides between equally
        # frequent pieces: here they come first, in order
        special_tokens=[*SPECIAL, *continuing],
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.post_processor = lib.processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)],
    )
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    vocabulary = state["model"]["vocab"]
    found = len(vocabulary)
    if found == len(SPECIAL):
        raise ValueError("there are no words to train a tokenizer on")
    if found > vocab_size:
        raise ValueError(f"vocab_size must be at least {found}, the single characters of the text, got {vocab_size}")
    vocabulary |= {f"[unused{i - found}]": i for i in range(found, vocab_size)}
    return json.dumps(state, ensure_ascii=False)


def _alphabet(tokenizer: Any, sentences: Iterable[str]) -> tuple[list[str], list[str]]:
    """The most frequent characters, and ## with each of those that stand within a word; sorted."""
    words: Counter[str] = Counter()
    for sentence in sentences:
        parts = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(sentence))
        words.update(word for word, _ in parts)
    counts: Counter[str] = Counter()
    for word, n in words.items():
        for character in word:
            counts[character] += n
    kept = set(sorted(counts, key=lambda character: (-counts[character], character))[:_ALPHABET])
    within = {character for word in words for character in word[1:]} & kept
    return sorted(kept), [f"##{character}" for character in sorted(within)]


class WordPiece(Tokenizer):
    """A WordPiece tokenizer with BERT's special tokens."""

    kind, special = "WordPiece", SPECIAL

    def __init__(self, text: str, source: str | Path = "the tokenizer") -> None:
        super().__init__(text, source)
        self.pad, _, self.cls, self.sep, self.mask = (self.vocabulary[token] for token in SPECIAL)
        self.continues = np.zeros(self.size, dtype=bool)  # whether a piece goes on with the word before it
        prefix = self.state["model"]["continuing_subword_prefix"]
        self.continues[[number for piece, number in self.vocabulary.items() if piece.startswith(prefix)]] = True

    def encode(self, sentences: list[str]) -> list[list[int]]:
        """Numbers of the pieces of each sentence, without [CLS] and [SEP]."""
        return [found.ids for found in self.tokenizer.encode_batch(sentences, add_special_tokens=False)]

    def piece(self, number: int) -> str:
        """The piece of a number."""
        return str(self.tokenizer.id_to_token(number))
