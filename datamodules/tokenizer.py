"""Tokenizers: read, and kept as the JSON text of the tokenizers library."""

from pathlib import Path
from types import ModuleType


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
