"""Do unlabelled pictures help where labels are few? FixMatch against supervised training on the same labels.

    SSL_LIGHTNING_DATA=DIR python benchmarks/learn_semi.py     run what results/learn_semi.json lacks, print the table
    python benchmarks/learn_semi.py --table                    the table of docs/evaluation.md

The data and the network are those of benchmarks/learn.py. 40 pictures of each class keep their labels, others in every
seed; FixMatch sees the 10,000 pictures without their labels too. The supervised network takes equally many steps with
as many labelled pictures in a batch, the weak view, the same rates, and the moving average of its weights too. What
stands in the table is the accuracy on the 10,000 test pictures after the last step. Runs that are in the file already
are not repeated; a run that was cut goes on.

The gate, fixed before any run was made: FixMatch is better in every one of three seeds.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import learn
import lightning.pytorch as L
from harness import SEEDS, data_folder, fit, machine, protocols, read, spread, test, trainer_of, upkeep, verdict, write
from learn import Cifar

from callbacks import WeightEMA
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
    average = [] if name == "FixMatch" else [WeightEMA(EMA)]  # FixMatch brings its own
    trainer = trainer_of(folder / f"{name}-{seed}", *upkeep(), *average, max_steps=steps, max_epochs=-1)
    seconds = fit(trainer, model, images)
    sure = float(trainer.callback_metrics.get("train/sure", 0))
    accuracy = round(100 * test(trainer, model, images)["test/top1"], 2)
    protocol = protocols(trainer, model, "top1")["top1"]
    found = {"accuracy": accuracy, "steps": trainer.global_step, "seconds": round(seconds), "protocol": protocol}
    return {**found, "sure": round(sure, 3)} if name == "FixMatch" else found


def run(seed: int, data: Path, folder: Path, epochs: int) -> dict[str, Any]:
    return {
        "seed": seed,
        **{name: train(name, seed, data, folder, epochs) for name in ("Classifier", "FixMatch")},
        "arguments": {**learn.BACKBONE, **RATES, **FIXMATCH, "labels_per_class": LABELS, "batch_size": LABELLED},
        **machine(),
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
    return "\n".join([*rows, "", f"Gate (better in every seed): {verdict(passes(runs), runs)}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="others, to try the script; nothing is saved then")
    parser.add_argument("--runs", type=Path, default=Path("runs/learn_semi"), help="where checkpoints and the cache go")
    parser.add_argument("--table", action="store_true", help="print the table and end")
    args = parser.parse_args()
    runs = read(RESULTS)
    if not args.table:
        data = data_folder("cifar10")
        for seed in args.seeds:
            if any(r["seed"] == seed for r in runs):
                continue
            result = run(seed, data, args.runs, args.epochs)
            print(json.dumps({key: result[key] for key in ("seed", "Classifier", "FixMatch")}), flush=True)
            if args.epochs == EPOCHS:
                runs.append(result)
                write(RESULTS, runs)
    print(table(runs))
    if not args.table and not passes(runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
