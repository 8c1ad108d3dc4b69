"""From the folders of runs to the folder of their comparison."""

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from callbacks.results import atomic_open
from ssl_lightning.compare.page import GENERATOR, page
from ssl_lightning.compare.runs import Run, read
from ssl_lightning.compare.tables import lines_of_scores, markdown


def compare(paths: Iterable[Path], output: Path) -> tuple[str, list[str]]:
    """Write compare.html, compare.md and compare.csv of the runs at these paths.

    Args:
        paths: Folders of runs, or results.json of any name.
        output: The folder to write: new, empty, or of an earlier comparison.

    Returns:
        The Markdown, and a line for each path that was left out.

    Raises:
        FileExistsError: there is something else at `output`.
        FileNotFoundError: there is nothing at one of the paths.
        ValueError: none of them can be read.
    """
    refuse_foreign(output)
    runs, left_out = read_all(paths)
    text = markdown(runs)
    # the page first, for it says whose folder it is
    files = {"compare.html": page(runs, left_out), "compare.md": f"{text}\n", "compare.csv": lines_of_scores(runs)}
    for name, content in files.items():
        with atomic_open(output / name) as file:
            file.write(content.encode())
    return text, left_out


def refuse_foreign(folder: Path) -> None:
    """
    Raises:
        FileExistsError: it is a file, or holds something and no page of an earlier comparison.
    """
    page = folder / "compare.html"
    if page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")[:500]:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something else than a comparison: give --output a new folder")


def read_all(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs, each once and under a name of its own, and a line for each path that was left out.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ValueError: no run can be read.
    """
    runs: dict[Path, Run] = {}
    left_out = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}")
        try:
            run = read(path)
        except (OSError, ValueError) as error:
            folder = shlex.quote(str(path if path.is_dir() else path.parent))
            left_out.append(f"{path}: {error}; to write it: ssl-lightning test --run {folder} --ckpt_path last")
        else:
            runs[(path / "results.json" if path.is_dir() else path).resolve()] = run
    if not runs:
        raise ValueError("\n".join(["there is no run to compare", *left_out]))
    names = Counter(run.name for run in runs.values())
    whole = {path: str(path.parent if path.name == "results.json" else path) for path in runs}
    return [replace(r, name=whole[p]) if names[r.name] > 1 else r for p, r in runs.items()], left_out
