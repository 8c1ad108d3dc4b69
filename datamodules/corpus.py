"""Tokenized documents: in memory, or in files that are read by place so that they may be larger than memory."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import numpy as np
from filelock import FileLock

from datamodules.word_pieces import WordPiece

_LINES = 1000  # tokenized at a time


class Corpus:
    """S sentences of D documents as N tokens.

    Args:
        tokens: (N,) the numbers of all sentences' tokens, one after the other.
        offsets: (S + 1,) int64: sentence i is tokens[offsets[i] : offsets[i + 1]], and is not empty.
        first: (D,) int64, rising: the first sentence of each document.
        last: (D,) int64: the sentence after each document's, of which it has at least one. Sentences between two
            documents belong to none.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
        self.tokens, self.offsets, self.first, self.last = tokens, offsets, first, last

    def __len__(self) -> int:
        return len(self.first)

    def part(self, rows: np.ndarray) -> "Corpus":
        """Some of the documents, by their places in rising order."""
        return Corpus(self.tokens, self.offsets, self.first[rows], self.last[rows])

    def read(self, spans: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """The tokens from the first to before the second place of each span."""
        for first, last in spans:
            yield self.tokens[first:last]


class FileCorpus(Corpus):
    """A corpus whose tokens stay in a file. Its offsets are a memory map.

    Args:
        path: The file of tokens.
        dtype: Of the numbers in it.
        offsets: See Corpus.
        first: See Corpus.
        last: See Corpus.
    """

    def __init__(self, path: Path, dtype: np.dtype, offsets: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
        super().__init__(np.empty(0, dtype), offsets, first, last)
        self.path, self.dtype = path, dtype

    def part(self, rows: np.ndarray) -> Corpus:
        return FileCorpus(self.path, self.dtype, self.offsets, self.first[rows], self.last[rows])

    def read(self, spans: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        width = self.dtype.itemsize
        with self.path.open("rb", buffering=0) as file:
            for first, last in spans:
                # not a memory map: the pages that it has read would count as this process's memory
                yield np.frombuffer(os.pread(file.fileno(), (last - first) * width, first * width), self.dtype)


def in_memory(documents: list[list[str]], tokenizer: WordPiece) -> Corpus:
    """A corpus of documents, each a list of sentences. Sentences and documents without tokens are left out."""
    sentences = [[ids for ids in tokenizer.encode(document) if ids] for document in documents]
    sizes = np.array([len(document) for document in sentences if document], dtype=np.int64)
    rows = list(chain.from_iterable(sentences))
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in rows])]).astype(np.int64)
    tokens = np.fromiter(chain.from_iterable(rows), dtype=np.int32)
    return Corpus(tokens, offsets, sizes.cumsum() - sizes, sizes.cumsum())


def lines(files: Iterable[Path]) -> Iterator[str]:
    """The lines of files, stripped; an empty one after each file.

    Raises:
        ValueError: a file is not text in UTF-8.
    """
    for path in files:
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    yield line.strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}") from error
        yield ""


def state_of(files: Iterable[Path]) -> list[list[str | int]]:
    """What changes when a file does."""
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def cached_text(folder: Path, name: str, key: object, make: Callable[[], str]) -> str:
    """The text that `make` gives, once for all processes and runs with this key.

    Args:
        folder: Where to keep it.
        name: Of the file: `name-<hash>.json`.
        key: What the text depends on, as JSON can hold it.
        make: Gives the text.

    Raises:
        ValueError: the folder cannot be written.
    """
    path = folder / f"{name}-{_hash(key)}.json"
    if not path.is_file():
        with _locked(folder, path.stem):
            if not path.is_file():
                part = path.with_suffix(".part")
                part.write_text(make())
                part.replace(path)
    return path.read_text()


def on_disk(files: list[Path], tokenizer: WordPiece, folder: Path) -> Corpus:
    """The documents of text files, one sentence a line and an empty line between documents.

    They are tokenized once for all processes and runs, line after line, into three files in the folder: `.tokens` (2
    or 4 bytes a token), `.offsets` (8 bytes a sentence) and `.documents` (8 bytes a document). Files that have
    changed, or another tokenizer, make new ones; the old ones stay for the runs that still read them.

    Args:
        files: In this order.
        tokenizer: The tokenizer.
        folder: Where to keep them.

    Raises:
        ValueError: the folder cannot be written, or a file is not text in UTF-8.
        OSError: the disk is full.
    """
    dtype = np.dtype(np.uint16 if tokenizer.size <= 2**16 else np.int32)
    base = folder / f"corpus-{_hash([state_of(files), hashlib.sha256(tokenizer.json.encode()).hexdigest()])}"
    paths = [base.with_suffix(f".{kind}") for kind in ("tokens", "offsets", "documents")]
    if not paths[-1].is_file():
        with _locked(folder, base.name):
            if not paths[-1].is_file():
                try:
                    _write(files, tokenizer, dtype, paths)
                except OSError as error:
                    raise OSError(
                        f"cannot write {base}: {error}; free some space, or choose another folder with --data.cache_dir"
                    ) from error
    offsets, documents = (np.memmap(path, np.int64, "r") for path in paths[1:])
    return FileCorpus(paths[0], dtype, offsets, documents[:-1], documents[1:])


def _write(files: list[Path], tokenizer: WordPiece, dtype: np.dtype, paths: list[Path]) -> None:
    parts = [path.with_suffix(f"{path.suffix}.part") for path in paths]
    try:
        with ExitStack() as stack:
            tokens, offsets, documents = (stack.enter_context(part.open("wb")) for part in parts)
            place, sentence, first = 0, 0, 0  # tokens, sentences, sentences before this document
            for bounds in (offsets, documents):
                bounds.write(np.int64(0).tobytes())
            rest = lines(files)
            while some := list(islice(rest, _LINES)):
                for line, ids in zip(some, tokenizer.encode(some), strict=True):
                    if ids:
                        tokens.write(np.array(ids, dtype).tobytes())
                        place += len(ids)
                        sentence += 1
                        offsets.write(np.int64(place).tobytes())
                    elif not line and sentence > first:
                        documents.write(np.int64(sentence).tobytes())
                        first = sentence
        for part, path in zip(parts, paths, strict=True):
            part.replace(path)  # the documents last: where they are, all is
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _hash(key: object) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]


def _locked(folder: Path, name: str) -> FileLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        with lock:
            return lock
    except OSError as error:
        raise ValueError(
            f"cannot write the cache folder {folder}: {error}; choose another with --data.cache_dir"
        ) from error
