"""Does the Transformer learn? To reverse word sequences of Python's documentation, in minutes on a CPU.

    python benchmarks/learn_reversal.py            run what results/learn_reversal.json lacks, print the table
    python benchmarks/learn_reversal.py --table    the table of the README from results/learn_reversal.json

A run is one seed. The gate: of the sequences of the held-out sentences, none of which occurs in training, greedy
decoding reverses at least GATE for every one of the SEEDS, after at most MINUTES of training on 2 cores. A run that was
cut goes on. Pictures of its attention lie in its folder.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from harness import SEEDS, fit, machine, read, test, trainer_of, upkeep, write

from callbacks import AttentionMaps
from datamodules import Reversal
from ssl_lightning.methods import Transformer

RESULTS = Path(__file__).parent / "results" / "learn_reversal.json"
GATE = 0.99
MINUTES = 10
DATA = {"min_length": 4, "max_length": 10, "max_words": 1000, "batch_size": 128}
# Smaller than the paper's, with a shorter warm-up and a rate that ends at 0: the run is short.
MODEL = {
    "dim": 128,
    "hidden_dim": 256,
    "num_layers": 2,
    "num_heads": 4,
    "dropout": 0.0,
    "lr": 1e-3,
    "warmup_steps": 200,
    "schedule": "cosine",
}
STEPS = 1500


def run(seed: int, folder: Path, steps: int) -> dict[str, Any]:
    L.seed_everything(seed, verbose=False)
    data = Reversal(**DATA)
    model = Transformer(data.vocab_size, **MODEL)
    pictures = AttentionMaps(rows=3)
    trainer = trainer_of(folder / f"seed{seed}", *upkeep(every_n_steps=100), pictures, max_epochs=-1, max_steps=steps)
    seconds = fit(trainer, model, data)
    scores = test(trainer, model, data)
    return {
        "seed": seed,
        "exact_match": round(scores["test/exact_match"], 5),
        "token_accuracy": round(scores["test/token_accuracy"], 5),
        "sequences": len(data.held_out),
        "training_sequences": len(data.train),
        "protocols": model.protocols,
        "steps": trainer.global_step,
        "fit_seconds": round(seconds),
        "data": DATA,
        "arguments": MODEL,
        **machine(),  # with the version of Python, whose documentation it is
    }


def good(run: dict[str, Any]) -> bool:
    return run["exact_match"] >= GATE and run["fit_seconds"] <= 60 * MINUTES


def passes(runs: list[dict[str, Any]]) -> bool:
    return {r["seed"] for r in runs} == set(SEEDS) and all(good(r) for r in runs)


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as a table in Markdown."""
    rows = [
        f"| seed | exact match | token accuracy | held-out sequences | gate ({GATE}) | steps | seconds |",
        "|---" * 7 + "|",
    ]
    for r in sorted(runs, key=lambda r: r["seed"]):
        gate = "passed" if good(r) else "missed"
        cells = (r["seed"], f"{r['exact_match']:.4f}", f"{r['token_accuracy']:.4f}", r["sequences"], gate, r["steps"])
        rows.append(f"| {' | '.join(map(str, cells))} | {r['fit_seconds']} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, help="fewer, to try the script; nothing is saved then")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/learn_reversal"), help="where checkpoints and pictures go"
    )
    parser.add_argument("--table", action="store_true", help="print the table and end")
    args = parser.parse_args()
    runs = read(RESULTS)
    if not args.table:
        for seed in args.seeds:
            if any(r["seed"] == seed for r in runs):
                continue
            result = run(seed, args.runs, args.steps or STEPS)
            print(
                json.dumps({k: result[k] for k in ("seed", "exact_match", "token_accuracy", "fit_seconds")}), flush=True
            )
            if args.steps is None:
                runs.append(result)
                write(RESULTS, runs)
    print(table(runs))
    if not args.table and args.steps is None and not passes(runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
