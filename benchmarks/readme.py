"""Put the tables that benchmarks/results/*.json make into README.md and docs/speed.md, between their marks."""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import decode
import learn
import masking
import recipes
import speed

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")
TABLES = {
    "learn": (learn.RESULTS, learn.table),
    "speed": (speed.RESULTS, speed.table),
    "speed details": (speed.RESULTS, speed.details),
    "decode": (decode.RESULTS, decode.table),
    "masking": (masking.RESULTS, masking.table),
    "recipes": (recipes.RESULTS, recipes.table),
}


def filled(text: str) -> str:
    """The text with every table made anew from its results."""
    for name, (results, table) in TABLES.items():
        if results.exists():
            new = table(json.loads(results.read_text()))
            text = re.sub(
                rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=new: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL
            )
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
