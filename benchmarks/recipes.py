"""The published CIFAR-10 figures, by the recipes in configs/recipe.

    python benchmarks/recipes.py --data DIR                     run what results/recipes.json lacks, print the table
    python benchmarks/recipes.py --data DIR --minutes 10        stop in time; called again, it goes on
    python benchmarks/recipes.py --table                        the table from results/recipes.json

DIR/cifar-10-batches-py is the original, or DIR/cifar10/{train,test}/<class>/* a copy as pictures; without --data the
original is downloaded. Every run is the command that stands in its recipe, in a folder of its own under --runs. Beside
the published figure stand the last and the highest of the scores over the epochs: papers report either.
"""

import argparse
import json
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from callbacks.results import atomic_open
from ssl_lightning import __version__

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "recipes.json"
KNN, OWN = "knn_top1", "top1"
PROTOCOL = {KNN: "kNN k=200 T=0.1 every 10 epochs on the test images", OWN: "every epoch on the test images"}
PUBLISHED = {  # run: recipe, further words, score, figure in %, which of the epochs
    "classifier_classic_cifar10": ("classifier_classic_cifar10", [], OWN, 94.8, "last"),
    "simclr_lightly_cifar10": ("simclr_lightly_cifar10", [], KNN, 84.8, "max"),
    "moco_lightly_cifar10": ("moco_lightly_cifar10", [], KNN, 84.7, "max"),
    "moco_colab_cifar10": ("moco_colab_cifar10", [], KNN, 82.6, "last"),
    "moco_colab_cifar10, symmetric": ("moco_colab_cifar10", ["--model.symmetric", "true"], KNN, 85.3, "last"),
}
PREEMPTED = (138, 143)


def data_words(data: Path | None) -> tuple[str, list[str]]:
    """What the pictures are, and the words for the command line."""
    if data is None:
        return "original", []
    if (data / "cifar-10-batches-py").is_dir():
        return "original", ["--data.root", str(data)]
    words = f"--data ImageFolder --data.root {data / 'cifar10'} --data.image_size 32 --data.cache true".split()
    return "JPEG copy", words


def run(name: str, folder: Path, args: argparse.Namespace, deadline: float) -> dict[str, Any] | None:
    """Start or go on with a run; None if it was stopped in time."""
    recipe, words, score, published, which = PUBLISHED[name]
    pictures, data = data_words(args.data)
    command = [sys.executable, "-m", "ssl_lightning", "fit", "--run", str(folder)]
    if (folder / "checkpoints" / "last.ckpt").exists():
        command += ["--ckpt_path", "last"]
    else:
        command += ["-c", str(ROOT / "configs" / "recipe" / f"{recipe}.yaml"), *data, *words]
        command += ["--compile", str(args.compile).lower()]
        command += ["--trainer.max_epochs", str(args.epochs)] if args.epochs else []
        command += args.words
    start = time.time()
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        code = process.wait(None if deadline == float("inf") else max(1.0, deadline - time.time()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    if code in PREEMPTED:
        return None
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    by_epoch = {row["epoch"]: 100 * row[f"val/{score}"] for row in rows if row.get(f"val/{score}") is not None}
    losses = {row["epoch"]: row["train/loss"] for row in rows if "train/loss" in row}
    return {
        "protocol": f"recipe/{recipe}: {PROTOCOL[score]}",
        "score": score,
        "published": published,
        "which": which,
        "pictures": pictures,
        "last": round(by_epoch[max(by_epoch)], 2),
        "max": round(max(by_epoch.values()), 2),
        "by_epoch": {str(epoch + 1): round(value, 2) for epoch, value in sorted(by_epoch.items())},
        "loss": {str(epoch + 1): round(losses[epoch], 4) for epoch in sorted(losses)},
        "epochs": max(by_epoch) + 1,
        "minutes_of_last_leg": round((time.time() - start) / 60, 1),
        "command": " ".join(command[1:]),
        "machine": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "torch": torch.__version__,
            "ssl_lightning": __version__,
        },
    }


def table(saved: dict[str, Any]) -> str:
    """Published and reached, in Markdown."""
    rows = ["| recipe | pictures | epochs | score | published | last | max |", "|---|---|---|---|---|---|---|"]
    for name, r in saved.items():
        cells = [name, r["pictures"], r["epochs"], r["score"], f"{r['published']} ({r['which']})", r["last"], r["max"]]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipes", nargs="*", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--epochs", type=int, help="others than the recipe's, to try it")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("words", nargs="*", help="after --: more words for every run, such as --trainer.devices 2")
    args = parser.parse_args()
    saved: dict[str, Any] = json.loads(args.output.read_text()) if args.output.exists() else {}
    deadline = time.time() + 60 * args.minutes
    for name in [] if args.table else args.recipes:
        if name in saved or time.time() > deadline:
            continue
        result = run(name, args.runs / name.replace(", ", "_"), args, deadline)
        if result is not None:
            saved[name] = result
            with atomic_open(args.output) as file:
                file.write((json.dumps(saved, indent=1) + "\n").encode())
    print(table(saved))


if __name__ == "__main__":
    main()
