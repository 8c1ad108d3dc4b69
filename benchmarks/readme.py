"""Put the tables that benchmarks/results/*.json make into the README and the docs, between their marks.

python benchmarks/readme.py            write them
python benchmarks/readme.py --check    only say which page has another one, and end with 1
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import backbones
import chunks
import decode
import gates
import learn
import learn_clip
import learn_detection
import learn_masked
import learn_reversal
import learn_semi
import learn_text
import learn_tracking
import learn_zoo
import masking
import recipes
import shortcut
import speed
import text_memory

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("backbones", "evaluation", "methods", "pretext", "speed", "text", "tracking")
    ),
)
TABLES = {
    "backbones": (backbones.RESULTS, backbones.table),
    "chunks": (chunks.RESULTS, chunks.table),
    "learn clip": (learn_clip.RESULTS, learn_clip.table),
    "learn detection": (learn_detection.RESULTS, learn_detection.table),
    "learn": (learn.RESULTS, learn.table),
    "reversal": (learn_reversal.RESULTS, learn_reversal.table),
    "learn text": (learn_text.RESULTS, learn_text.table),
    "tracking": (learn_tracking.RESULTS, learn_tracking.table),
    "semi": (learn_semi.RESULTS, learn_semi.table),
    "zoo": (learn_zoo.RESULTS, learn_zoo.table),
    "tracking real": (learn_tracking.RESULTS, learn_tracking.real),
    "text memory": (text_memory.RESULTS, text_memory.table),
    "masked": (learn_masked.RESULTS, learn_masked.table),
    "speed": (speed.RESULTS, speed.table),
    "speed details": (speed.RESULTS, speed.details),
    "decode": (decode.RESULTS, decode.table),
    "shortcut": (shortcut.RESULTS, shortcut.table),
    "masking": (masking.RESULTS, masking.table),
    "recipes": (recipes.RESULTS, recipes.table),
}


def filled(text: str) -> str:
    """The text with every table made anew from its results."""
    new = {name: table(json.loads(path.read_text())) for name, (path, table) in TABLES.items() if path.exists()}
    for name, table in {**new, "gates": gates.table()}.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL
        )
    return text


if __name__ == "__main__":
    stale = [page for page in PAGES if filled(page.read_text()) != page.read_text()]
    if "--check" in sys.argv:
        sys.exit(
            "".join(f"{page.relative_to(ROOT)} has another table than benchmarks/results\n" for page in stale) or None
        )
    for page in stale:
        page.write_text(filled(page.read_text()))
