"""Does the Transformer learn? To reverse word sequences of Python's documentation, in minutes on a CPU.

    python benchmarks/learn_reversal.py            run what results/learn_reversal.json lacks, print the table
    python benchmarks/learn_reversal.py --table    the table of the README from results/learn_reversal.json

A run is one seed. The gate: of the sequences of the held-out sentences, none of which occurs in training, greedy
decoding reverses at least GATE for every one of the SEEDS, after at most MINUTES of training on 2 cores. A run that was
cut goes on. Pictures of its attention lie in its folder.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from callbacks import AttentionMaps, ExactResume, FiniteLoss, RunCheckpoint
from datamodules import Reversal
from ssl_lightning import __version__
from ssl_lightning.methods import Transformer

RESULTS = Path(__file__).parent / "results" / "learn_reversal.json"
GATE = 0.99
MINUTES = 10
SEEDS = (0, 1, 2)
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
    folder = folder / f"seed{seed}"
    last = folder / "checkpoints" / "last.ckpt"
    trainer = L.Trainer(
        max_epochs=-1,
        max_steps=steps,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[ExactResume(), FiniteLoss(), RunCheckpoint(every_n_steps=100), AttentionMaps(rows=3)],
    )
    clock = folder / "seconds"  # of the parts of a run that was cut
    before = float(clock.read_text()) if last.exists() and clock.exists() else 0.0
    start = time.perf_counter()
    try:
        trainer.fit(model, data, ckpt_path=last if last.exists() else None, weights_only=True)
    finally:
        seconds = before + time.perf_counter() - start
        folder.mkdir(parents=True, exist_ok=True)
        clock.write_text(str(seconds))
    scores = trainer.test(model, data, verbose=False)[0]
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
        "versions": {
            "ssl_lightning": __version__,
            "torch": torch.__version__,
            "lightning": L.__version__,
            "python": platform.python_version(),  # whose documentation it is
        },
        "hardware": f"{torch.get_num_threads()} threads, {platform.machine()}",
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
    runs: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
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
                RESULTS.parent.mkdir(exist_ok=True)
                new = RESULTS.with_suffix(".new")
                new.write_text(json.dumps(runs, indent=1) + "\n")
                os.replace(new, RESULTS)
    print(table(runs))
    if not args.table and args.steps is None and not passes(runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
