"""Text files of the user's own."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.corpus import cached_text, lines, on_disk, state_of
from datamodules.sets import balanced_rows
from datamodules.text import Labelled, TextData, Texts
from datamodules.word_pieces import WordPiece


def found_files(patterns: str | list[str]) -> list[Path]:
    """The files of names and patterns (`*`, `**`, `?`), those of a pattern in sorted order.

    Raises:
        FileNotFoundError: a name or pattern fits no file.
    """
    files = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        some = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
        some = [name for name in some if Path(name).is_file()]
        if not some:
            raise FileNotFoundError(f"there is no file {pattern}")
        files += some
    return [Path(name) for name in dict.fromkeys(files)]


def read_labelled(path: str) -> tuple[list[str], list[str]]:
    """The labels and the sentences of a file with `label TAB sentence` in each line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has no label, or there is no line.
    """
    labels, sentences = [], []
    for number, line in enumerate(lines(found_files(path)), 1):
        label, tab, sentence = line.partition("\t")
        if not line:
            continue
        if not (label and tab and sentence.strip()):
            raise ValueError(f"line {number} of {path} has no label: write LABEL, a tab and the sentence")
        labels.append(label)
        sentences.append(sentence.strip())
    if not labels:
        raise ValueError(f"{path} holds no sentence")
    return labels, sentences


class TextFile(TextData):
    """Text files in UTF-8: one sentence a line, an empty line between documents. A file ends a document too.

    They are read once, to train the tokenizer if none is given, and once to be tokenized into `cache_dir`. Training
    reads from there: of the text itself nothing is kept in memory, but 16 bytes a pair and 16 bytes a document
    are; the order of an epoch takes some 30 bytes a pair more while it is drawn.

    Args:
        files: Files or patterns such as `books/**/*.txt`.
        held_out: Share of the documents that are kept from training, drawn alike for every seed; half of them are for
            validation, half for the test. A tokenizer that is trained has seen them. 0: none.
        labelled: A file of labelled sentences, `label TAB sentence` in each line, that the evaluations learn from.
        queries: Such a file that they ask about, in validation and test. None: a fifth of `labelled`, of all classes
            alike, drawn alike for every seed.
        cache_dir: Where to keep tokens and tokenizer. None: `.ssl_lightning_cache` beside the first file.
        kwargs: Sizes and tokenizer, see TextData.

    Raises:
        FileNotFoundError: a name or pattern fits no file.
        ValueError: files without a sentence, lines without a label, or labels of `queries` that `labelled` lacks.
    """

    def __init__(
        self,
        files: str | list[str],
        held_out: float = 0.05,
        labelled: str | None = None,
        queries: str | None = None,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.files, self.held_out, self.labelled, self.queries = files, held_out, labelled, queries
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out must be at least 0 and below 1, got {held_out}")
        if queries is not None and labelled is None:
            raise ValueError("queries need labelled sentences to learn from: give --data.labelled too")
        self._paths = found_files(files)
        if not any(lines(self._paths)):
            raise ValueError(f"{', '.join(map(str, self._paths[:3]))} hold(s) no sentence")
        self.cache_dir = str(
            Path(cache_dir).expanduser() if cache_dir else self._paths[0].parent / ".ssl_lightning_cache"
        )
        self._bank, self._queries, names = _labelled(labelled, queries)
        super().__init__(class_names=names, **kwargs)

    def sentences(self) -> Iterator[str]:
        return (line for line in lines(self._paths) if line)

    def trained(self) -> str:
        key = [state_of(self._paths), self.vocab_size, self.lowercase]
        return cached_text(Path(self.cache_dir), "tokenizer", key, super().trained)

    def prepare_data(self) -> None:
        word_piece = self.pieces or WordPiece(self.trained())
        on_disk(self._paths, word_piece, Path(self.cache_dir))

    def texts(self, tokenizer: WordPiece) -> Texts:
        corpus = on_disk(self._paths, tokenizer, Path(self.cache_dir))
        n = round(self.held_out * len(corpus) / 2)
        if n < 2:
            if self.held_out:
                rank_zero_info(f"no documents are held out: {self.held_out:g} of {len(corpus)} are too few")
            return Texts(corpus, None, None, self._bank, self._queries)
        order = np.random.default_rng(0).permutation(len(corpus))
        val, test, train = (corpus.part(np.sort(rows)) for rows in np.split(order, [n, 2 * n]))
        return Texts(train, val, test, self._bank, self._queries)


def _labelled(bank: str | None, queries: str | None) -> tuple[Labelled | None, Labelled | None, list[str]]:
    """Bank, queries and the names of the classes."""
    if bank is None:
        return None, None, []
    labels, sentences = read_labelled(bank)
    names = sorted(set(labels))
    number = {name: i for i, name in enumerate(names)}
    label = [number[name] for name in labels]
    if queries is None:
        held = balanced_rows(np.array(label), max(1, len(label) // 5), seed=0).tolist()
        kept = sorted(set(range(len(label))) - set(held))
        one, two = (Labelled([sentences[i] for i in rows], [label[i] for i in rows]) for rows in (kept, held))
        return one, two, names
    asked, about = read_labelled(queries)
    if unknown := sorted(set(asked) - set(names)):
        raise ValueError(f"{queries} has the label {unknown[0]!r}, which {bank} does not have")
    return Labelled(sentences, label), Labelled(about, [number[name] for name in asked]), names
