"""What the README and the docs say is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_tables_are_those_of_the_results():
    """In a process of its own, where the benchmarks' classes stay."""
    command = [sys.executable, str(ROOT / "benchmarks" / "readme.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_to_a_file_leads_to_one(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert all((page.parent / link).exists() for link in links), links


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "methods.md"], ids=lambda p: p.name)
def test_the_method_on_the_page_trains(page, tmp_path, monkeypatch):
    from ssl_lightning.__main__ import main  # noqa: PLC0415

    code = next(c for c in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) if "(ImageModule)" in c)
    name = re.findall(r"class (\w+)\(", code)[0]
    module = f"on_{page.stem.lower()}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    main(
        f"fit --model {module}.{name} --data Digits --model.backbone convnet --data.image_size 16 --run run "
        "--trainer.max_steps 2 --trainer.accelerator cpu --trainer.enable_progress_bar false".split()
    )
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
