"""Tables of image files: what the data sets that are listed in one share."""

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


def read_rows(path: str | Path, folder: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table, each with its number and its fields by column; what a line lacks is empty.

    It is separated by tabs where its name ends in .tsv, else by commas.

    Args:
        path: The table.
        folder: What the names in its column `filepath` start from.
        columns: Columns that it must have, `filepath` first.

    Raises:
        FileNotFoundError: there is no such table, or a file that it lists.
        ValueError: it lacks a column, has no line, a line with more fields than columns, or is not text in UTF-8.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}")
    csv.field_size_limit(sys.maxsize)
    mark, called = ("\t", "tab") if path.suffix == ".tsv" else (",", "comma")
    seen: set[str] = set()
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets begin with a byte order mark
        rows = csv.DictReader(file, delimiter=mark)
        try:
            found = rows.fieldnames or []
            if missing := [name for name in columns if name not in found]:
                raise ValueError(
                    f"{path} has no column {' and no '.join(missing)}: its first line must name the columns "
                    f"{' and '.join(columns)}, and names {', '.join(found) or 'none'}"
                )
            for row in rows:
                if more := row.get(None):
                    raise ValueError(
                        f"{path}, line {rows.line_num}: {len(found) + len(more)} fields, and the first line names "
                        f"{len(found)}: put a text with a {called} between double quotes"
                    )
                fields = {column: text or "" for column, text in row.items()}
                name = fields[columns[0]]
                if name not in seen and not (folder / name).is_file():
                    raise FileNotFoundError(
                        f"{path}, line {rows.line_num}: there is no image {folder / name}; files are named from the "
                        f"folder of the training table, {folder.absolute()}"
                    )
                seen.add(name)
                yield rows.line_num, fields
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}") from error
    if not seen:
        raise ValueError(f"{path} lists no image")
