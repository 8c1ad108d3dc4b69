"""The language reference that comes with Python: text that needs no download."""

import re
from collections.abc import Iterator
from itertools import chain
from pydoc_data.topics import topics
from typing import Any

from datamodules.corpus import in_memory
from datamodules.text import Labelled, TextData, Texts
from datamodules.word_pieces import WordPiece

# Long documents of which none is a part of another: which of them is a sentence from?
CLASSES = ("compound", "debugger", "formatstrings", "specialnames", "string-methods", "types", "typesseq")
_EVERY = 5  # labelled sentence is a query
_END = re.compile(r'(?<=[.!?])["*)]*\s+(?=["*(]*[A-Z])')


def documents() -> list[list[str]]:
    """The topics of Python's `help()` in sorted order, each a list of sentences: running text, without headings,
    examples and grammar. Topics without a sentence are left out, and those that repeat another."""
    return [found for _, found in sorted(_documents().items())]


def _documents() -> dict[str, list[str]]:
    found = {tuple(_sentences(text)): name for name, text in sorted(topics.items(), reverse=True)}
    return {name: list(sentences) for sentences, name in found.items() if sentences}


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        sentences = [part for part in _END.split(words) if re.match(r'["*(]*[A-Z]', part) and part[-1:] in '.!?:)"']
        yield from (part for part in sentences if len(part.split()) > 3 and not re.search(r"::=|>>>|\+--|\| ", part))


class PythonDocs(TextData):
    """The topics of Python's `help()`, about 70 documents of running text; they differ a little between versions.

    Four documents are held out for validation and four for the test. Labelled are the sentences of seven long ones,
    by the document that they are from; every fifth is a query. What is held out or a query does not occur in training,
    in other documents either.

    Args:
        vocab_size: Pieces of the tokenizer that is trained on the sentences. None: 4,096.
        kwargs: Sizes and tokenizer, see TextData.
    """

    default_vocab_size = 4096

    def __init__(self, vocab_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(vocab_size=vocab_size, class_names=list(CLASSES), **kwargs)
        found = _documents()
        others = [name for name in sorted(found) if name not in CLASSES and len(found[name]) > 4]
        places = range(2, len(others), len(others) // 8)[:8]
        self._val, self._test = ([found.pop(others[i]) for i in some] for some in (places[::2], places[1::2]))
        labelled = [(sentence, label) for label, name in enumerate(CLASSES) for sentence in found[name]]
        labelled = list(dict(labelled).items())  # a sentence of two documents counts once
        queries = labelled[_EVERY - 1 :: _EVERY]
        unseen = set(chain(dict(queries), *self._val, *self._test))
        self._train = [[sentence for sentence in of if sentence not in unseen] for _, of in sorted(found.items())]
        bank = [row for row in labelled if row[0] not in unseen]
        self._bank, self._queries = (
            Labelled([row[0] for row in rows], [row[1] for row in rows]) for rows in (bank, queries)
        )

    def sentences(self) -> Iterator[str]:
        return chain.from_iterable(self._train)

    def texts(self, tokenizer: WordPiece) -> Texts:
        train, val, test = (in_memory(part, tokenizer) for part in (self._train, self._val, self._test))
        return Texts(train, val, test, self._bank, self._queries)
