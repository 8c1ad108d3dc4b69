"""Do unlabelled pictures help where labels are few? FixMatch against supervised training on the same labels.

    SSL_LIGHTNING_DATA=DIR python benchmarks/learn_semi.py     run what results/learn_semi.json lacks, print the table
    python benchmarks/learn_semi.py --table                    the table of docs/methods.md

The data and the network are those of benchmarks/learn.py. 40 pictures of each class keep their labels, others in every
seed; FixMatch sees the 10,000 pictures without their labels too. The supervised network takes equally many steps with
as many labelled pictures in a batch, the weak view, the same rates, and the moving average of its weights too. What
stands in the table is the accuracy on the 10,000 test pictures after the last step. Runs that are in the file already
are not repeated; a run that was cut goes on.

The gate, fixed before any run was made: FixMatch is better in every one of three seeds.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import learn
import lightning.pytorch as L
from learn import SEEDS, Cifar, spread

from callbacks import ExactResume, FiniteLoss, RunCheckpoint, WeightEMA
from callbacks.results import atomic_open
from datamodules.views import CropFlipViews
from ssl_lightning.methods import Classifier, FixMatch

RESULTS = Path(__file__).parent / "results" / "learn_semi.json"
LABELS = 40  # of each class
LABELLED, RATIO, EPOCHS = 32, 4, 40  # of a batch; an epoch is a pass over the unlabelled pictures
# What differs from the paper's numbers, which are for a million steps: the threshold, the average's decay.
EMA = 0.99
RATES = {"optimizer_args": {"nesterov": True}, "weight_decay": 5e-4, "decay_norm_and_bias": False, "lr_rule": "none"}
RATES |= {"lr": 0.03, "schedule": "cosine_7_16"}
FIXMATCH = {"threshold": 0.8, "unlabelled_ratio": RATIO, "ema": EMA}


def train(name: str, seed: int, data: Path, folder: Path, epochs: int) -> dict[str, Any]:
    L.seed_everything(seed, verbose=False)
    arguments: dict[str, Any] = {"num_classes": 10, **learn.BACKBONE, **RATES}
    model = FixMatch(**arguments, **FIXMATCH) if name == "FixMatch" else Classifier(**arguments)
    images = Cifar(
        str(data / "cifar10"),
        image_size=32,
        cache=True,
        batch_size=LABELLED,
        labels_per_class=LABELS,
        views=None if name == "FixMatch" else CropFlipViews(padding=4),
        seed=seed,
        cache_dir=str(folder / "cache"),
    )
    steps = epochs * (learn.IMAGES // (LABELLED * RATIO))
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=folder / f"{name}-{seed}",
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[
            ExactResume(),
            RunCheckpoint(),
            FiniteLoss(),
            *([] if name == "FixMatch" else [WeightEMA(EMA)]),
        ],
    )
    last = Path(trainer.default_root_dir, "checkpoints", "last.ckpt")
    start = time.perf_counter()
    trainer.fit(model, images, ckpt_path=last if last.exists() else None, weights_only=True)
    seconds = time.perf_counter() - start
    sure = float(trainer.callback_metrics.get("train/sure", 0))
    trainer.test(model, images, verbose=False)
    accuracy = round(100 * float(trainer.callback_metrics["test/top1"]), 2)
    found = {"accuracy": accuracy, "steps": trainer.global_step, "seconds": round(seconds)}
    return {**found, "sure": round(sure, 3)} if name == "FixMatch" else found


def run(seed: int, data: Path, folder: Path, epochs: int) -> dict[str, Any]:
    return {
        "seed": seed,
        **{name: train(name, seed, data, folder, epochs) for name in ("Classifier", "FixMatch")},
        "arguments": {**learn.BACKBONE, **RATES, **FIXMATCH, "labels_per_class": LABELS, "batch_size": LABELLED},
        **learn.machine(),
    }


def passes(runs: list[dict[str, Any]]) -> bool:
    return len(runs) == len(SEEDS) and all(r["FixMatch"]["accuracy"] > r["Classifier"]["accuracy"] for r in runs)


def table(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return "no runs yet"
    rows = ["| 40 labels per class | accuracy | steps | seconds |", "|---|---|---|---|"]
    for name in ("Classifier", "FixMatch"):
        mine = [r[name] for r in runs]
        cells = [
            spread([r["accuracy"] for r in mine]),
            str(mine[0]["steps"]),
            f"{mean(r['seconds'] for r in mine):.0f}",
        ]
        rows.append(f"| {' | '.join([f'`{name}`', *cells])} |")
    verdict = "passed" if passes(runs) else "missed"
    return "\n".join([*rows, "", f"Gate (better in every seed): {verdict}, {len(runs)} seeds."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="others, to try the script; nothing is saved then")
    parser.add_argument("--runs", type=Path, default=Path("runs/learn_semi"), help="where checkpoints and the cache go")
    parser.add_argument("--table", action="store_true", help="print the table and end")
    args = parser.parse_args()
    runs: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if not args.table:
        if "SSL_LIGHTNING_DATA" not in os.environ:
            sys.exit("set SSL_LIGHTNING_DATA to a folder with cifar10/{train,test}/<class>/*.jpg")
        for seed in args.seeds:
            if any(r["seed"] == seed for r in runs):
                continue
            result = run(seed, Path(os.environ["SSL_LIGHTNING_DATA"]), args.runs, args.epochs)
            print(json.dumps({key: result[key] for key in ("seed", "Classifier", "FixMatch")}), flush=True)
            if args.epochs == EPOCHS:
                runs.append(result)
                with atomic_open(RESULTS) as file:
                    file.write(json.dumps(runs, indent=1).encode() + b"\n")
    print(table(runs))
    if not args.table and not passes(runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
