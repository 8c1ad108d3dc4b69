"""The language reference that comes with Python: text that needs no download."""

import re
from collections.abc import Iterator
from pydoc_data.topics import topics

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
