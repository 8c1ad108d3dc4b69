"""Put the tables that benchmarks/results/*.json make into README.md, between their marks."""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import learn
import speed

README = Path(__file__).parents[1] / "README.md"


def filled(text: str) -> str:
    """The text with every table made anew from its results."""
    for benchmark in (learn, speed):
        table = benchmark.table(json.loads(benchmark.RESULTS.read_text()))
        name = benchmark.__name__
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.S
        )
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
