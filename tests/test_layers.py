"""Imports run one way: datamodules <- callbacks <- ssl_lightning's parts <- base <- methods <- cli."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    p.relative_to(ROOT) for top in ("datamodules", "callbacks", "ssl_lightning") for p in (ROOT / top).rglob("*.py")
)


def layer(name: str) -> int:
    last = {"base": 3, "labelled": 3, "siamese": 3, "masked": 3, "pretext": 3, "methods": 4}
    last |= {"cli": 5, "errors": 5, "run": 5, "zero_shot": 5, "track": 5, "__main__": 6}
    top, _, rest = name.partition(".")
    return {"datamodules": 0, "callbacks": 1}.get(top, last.get(rest.split(".")[0], 2))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_one_way(path):
    here = ".".join(path.with_suffix("").parts)
    names = [n.module or "" for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.ImportFrom)]
    ours = [n for n in names if n.split(".")[0] in ("datamodules", "callbacks", "ssl_lightning")]
    assert all(layer(n) <= layer(here) for n in ours if n != "ssl_lightning"), ours
    if layer(here) == 4 and path.name != "__init__.py":
        assert not [n for n in ours if layer(n) == 4], "a method imports another"
