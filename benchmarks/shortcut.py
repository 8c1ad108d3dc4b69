"""Do edges solve the puzzle? Jigsaw with tiles cut edge to edge, and with gaps, on real pictures.

    SSL_LIGHTNING_DATA=DIR python benchmarks/shortcut.py       run, print and save results/shortcut.json
    python benchmarks/shortcut.py --table                      the table of docs/pretext.md

The recipe of benchmarks/learn.py. Where tiles fill their cells, no pixel is missing between neighbours and the channels
cannot move: what continues over an edge tells the neighbour. Beside the share of puzzles solved stands the linear
accuracy of the features that were learned by it.
"""

import argparse
from pathlib import Path
from typing import Any

import learn
from harness import data_folder, read, write
from learn import RECIPES, run

RESULTS = Path(__file__).parent / "results" / "shortcut.json"
WORDS = {"gap": "tiles of 12 px somewhere in cells of 16 px", "no gap": "tiles of 16 px, edge to edge"}
EPOCHS = (2, 5, 20)


def table(runs: list[dict[str, Any]]) -> str:
    rows = [
        "| puzzle | epochs | puzzles solved | linear | linear, untrained |",
        "|---|---|---|---|---|",
    ]
    for result in runs:
        puzzle, trained = WORDS[result["method"].removeprefix("Jigsaw, ")], result["trained"]
        solved, linear = f"{100 * trained['pretext_accuracy']:.0f} %", f"{trained['linear']:.1f}"
        rows.append(f"| {puzzle} | {result['epochs']} | {solved} | {linear} | {result['untrained']['linear']:.1f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/shortcut"), help="where checkpoints and the cache go")
    parser.add_argument("--table", action="store_true", help="print the table and end")
    args = parser.parse_args()
    if args.table:
        print(table(read(RESULTS)))
        return
    data = data_folder("cifar10")
    plain = RECIPES["Jigsaw"]
    changes: dict[str, dict[str, Any]] = {"gap": {}, "no gap": {"tile_size": 16, "channel_shift": 0}}
    runs = []
    for name, change in changes.items():
        learn.RECIPES[f"Jigsaw, {name}"] = plain._replace(arguments={**plain.arguments, **change})
        for epochs in EPOCHS:
            folder = args.runs / str(epochs)
            runs.append(run(f"Jigsaw, {name}", 0, data, folder, epochs))
    write(RESULTS, runs)
    print(table(runs))


if __name__ == "__main__":
    main()
