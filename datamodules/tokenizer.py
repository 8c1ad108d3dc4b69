"""What the kinds of tokenizers share: they are read, and kept as the JSON text of the tokenizers library."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar


def library() -> ModuleType:
    """The tokenizers library.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import tokenizers  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "text needs the packages tokenizers and transformers: pip install 'ssl-lightning[text]'"
        ) from error
    return tokenizers


def read(path: str | Path) -> str:
    """The JSON of a tokenizer: of a file, or of the tokenizer.json in a folder, such as Hugging Face's.

    Raises:
        FileNotFoundError: there is no such file.
    """
    file = Path(path, "tokenizer.json") if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no tokenizer {file}: make one by ssl-lightning tokenizer")
    return file.read_text()


class Tokenizer:
    """A tokenizer, read from its JSON. A kind is a subclass that says its name and its special tokens.

    Args:
        text: The JSON.
        source: What errors call it.

    Raises:
        ValueError: it is no tokenizer of this kind, or lacks a special token.
        ModuleNotFoundError: tokenizers is not installed.
    """

    kind: ClassVar[str]
    special: ClassVar[tuple[str, ...]]

    def __init__(self, text: str, source: str | Path = "the tokenizer") -> None:
        self.json = text
        lib = library()
        try:
            self.tokenizer = lib.Tokenizer.from_str(text)
            self.state: dict[str, Any] = json.loads(text)
        except Exception as error:  # the library raises nothing more special
            raise ValueError(f"{source} is no tokenizer of the tokenizers library: {error}") from error
        if (found := self.state["model"]["type"]) != self.kind:
            raise ValueError(f"{source} is of the kind {found}, which is not {self.kind}")
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        if missing := [token for token in self.special if token not in self.vocabulary]:
            raise ValueError(f"{source} has no {', '.join(missing)}")
        self.size = max(self.vocabulary.values()) + 1

    @property
    def meaning(self) -> tuple[Any, ...]:
        """Equal: the same numbers for every text."""
        return self.vocabulary, self.state["model"].get("merges"), self.state["normalizer"]


Kind = TypeVar("Kind", bound=Tokenizer)


class Tokenized(Generic[Kind]):
    """Data with a tokenizer: one that is given, that of a checkpoint, or one that is trained on the data.

    `pieces` is the tokenizer, None before it is known; `vocab_size` its size.
    """

    tokenizer_class: type[Kind]
    default_vocab_size: int

    def choose_tokenizer(self, tokenizer: str | None, vocab_size: int | None) -> None:
        """
        Args:
            tokenizer: A tokenizer.json, or a folder with one; None: not given.
            vocab_size: Pieces of the tokenizer that is trained; None: `default_vocab_size`.

        Raises:
            FileNotFoundError: there is no such tokenizer.
            ValueError: it is of another kind, or `vocab_size` is not its size.
        """
        library()
        self.tokenizer, self.asked_vocab_size = tokenizer, vocab_size
        self.vocab_size = self.default_vocab_size if vocab_size is None else vocab_size
        self.pieces: Kind | None = None
        if tokenizer is not None:
            self.take_tokenizer(self.tokenizer_class(read(tokenizer), tokenizer), tokenizer)

    def take_tokenizer(self, pieces: Kind, source: str) -> None:
        if self.asked_vocab_size not in (None, pieces.size):
            raise ValueError(f"vocab_size is {self.asked_vocab_size}, but {source} has {pieces.size} pieces: drop it")
        self.pieces, self.vocab_size = pieces, pieces.size

    def use_tokenizer(self, text: str, source: str) -> None:
        """Take the tokenizer of a checkpoint, before `prepare_data`.

        Args:
            text: Its JSON.
            source: What an error calls the checkpoint.

        Raises:
            ValueError: the user has given another one, or another `vocab_size`.
        """
        theirs = self.tokenizer_class(text, source)
        if self.pieces is not None and self.pieces.meaning != theirs.meaning:
            raise ValueError(f"the tokenizer {self.tokenizer} is not {source}: drop it")
        self.take_tokenizer(theirs, source)
