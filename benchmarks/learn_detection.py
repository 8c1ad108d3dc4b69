"""Does pretraining help to detect? Faster R-CNN from a pretrained backbone and from scratch, in minutes on a CPU.

    python benchmarks/learn_detection.py             run what results/learn_detection.json lacks, print the table
    python benchmarks/learn_detection.py --table     the table of docs/evaluation.md

A small convolutional network learns without labels, by SimCLR, from 4,000 pictures of 32 px, each of one digit on a
part of a photograph. Then DetectionTransfer tunes it on 200 training images of DetectionDigits, and, for as many
steps, with the same rates and in the same order, the same network from its own first weights. Both are scored by
`detection-v1` on the 500 test images. All that is learned from, with or without labels, is made of the training scans
and the training part of the photographs; the test images share no scan and no part of a photograph with it. Runs that
are in the file already are not repeated; a run that was cut goes on. The recipe was chosen with another seed on
validation images: `--part val` scores those, and saves nothing.

The gate, fixed before any run on the test images: average precision (0 to 100) gains at least 3 points in the mean of
three seeds, and gains in each.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import lightning.pytorch as L
import numpy as np
from harness import SEEDS, fit, machine, protocols, read, spread, trainer_of, upkeep, verdict, write

from callbacks import DetectionPictures
from datamodules import DetectionDigits, SimCLRViews
from datamodules.detection_digits import scenes
from datamodules.images import ImageData, Splits
from datamodules.sets import ImageArray
from ssl_lightning.methods import DetectionTransfer, SimCLR

RESULTS = Path(__file__).parent / "results" / "learn_detection.json"
MARGIN = 3.0  # points of average precision
SCORES = {"map": "AP", "map_50": "AP at 0.5", "map_75": "AP at 0.75"}
PICTURES, LABELLED, BATCH = 4_000, 200, 8
EPOCHS, STEPS = 75, 400  # of pretraining, of tuning
BACKBONE = "convnet"
VIEWS: dict[str, Any] = {"strength": 1.0, "min_scale": 0.4, "flip": 0.0}
PRETRAINING: dict[str, Any] = {
    "temperature": 0.2,
    "optimizer": "SGD",
    "lr": 0.1,
    "lr_rule": "none",
    "weight_decay": 5e-4,
    "warmup_epochs": 1,
}
TUNING: dict[str, Any] = {
    "channels": 32,
    "head_dim": 128,
    "lr": 0.05,
    "lr_rule": "none",
    "schedule": "cosine",
    "warmup_steps": 50,
    "detector_args": {  # a small image needs fewer boxes
        "rpn_batch_size_per_image": 64,
        "box_batch_size_per_image": 32,
        "rpn_pre_nms_top_n_train": 200,
        "rpn_post_nms_top_n_train": 200,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_test": 100,
    },
}


class Singles(ImageData):
    """Pictures of one digit each, without labels."""

    def splits(self) -> Splits:
        pictures = scenes("train", PICTURES, self.image_size, most=1, sides=(0.5, 0.78)).images.numpy()
        images = ImageArray(pictures, np.full(len(pictures), -1))
        return Splits(images, bank=None, val=None, test=None, predict=images)


def pretrained(seed: int, folder: Path, epochs: int) -> tuple[str, int, float]:
    """The checkpoint, its steps and the seconds."""
    L.seed_everything(seed, verbose=False)
    model = SimCLR(backbone=BACKBONE, image_size=32, **PRETRAINING)
    data = Singles(32, 3, [], views=SimCLRViews(**VIEWS), seed=seed)
    trainer = trainer_of(folder, *upkeep(every_n_steps=100), max_epochs=epochs)
    seconds = fit(trainer, model, data)
    return str(folder / "checkpoints" / "last.ckpt"), trainer.global_step, seconds


def tuned(
    seed: int, folder: Path, steps: int, part: str, **start: Any
) -> tuple[dict[str, float], dict[str, str], float]:
    """Scores from 0 to 100 after tuning, their protocols, and the seconds of it."""
    L.seed_everything(seed, verbose=False)
    model = DetectionTransfer(num_classes=10, image_size=64, **TUNING, **start)
    data = DetectionDigits(LABELLED, batch_size=BATCH, seed=seed)
    trainer = trainer_of(folder, *upkeep(every_n_steps=100), max_epochs=-1, max_steps=steps)
    seconds = fit(trainer, model, data)
    ids = protocols(trainer, model, *SCORES)
    trainer = trainer_of(folder, DetectionPictures(), limit_val_batches=1.0)
    (metrics,) = (trainer.test if part == "test" else trainer.validate)(model, data, verbose=False)
    return {name.split("/")[1]: round(100 * value, 2) for name, value in metrics.items()}, ids, seconds


def run(seed: int, folder: Path, epochs: int, steps: int, part: str) -> dict[str, Any]:
    checkpoint, pretraining_steps, seconds = pretrained(seed, folder / f"pretrained-{seed}", epochs)
    start = {"pretrained": {"checkpoint": checkpoint}, "scratch": {"backbone": BACKBONE}}
    ends = {name: tuned(seed, folder / f"{name}-tuned-{seed}", steps, part, **how) for name, how in start.items()}
    return {
        "seed": seed,
        **{name: scores for name, (scores, _, _) in ends.items()},
        "protocols": ends["scratch"][1],
        "pretraining_steps": pretraining_steps,
        "pretraining_seconds": round(seconds),
        "steps": steps,
        "seconds": round(mean(seconds for _, _, seconds in ends.values())),
        "recipe": {"views": VIEWS, "pretraining": PRETRAINING, "tuning": TUNING, "batch_size": BATCH},
        **machine(),
    }


def passes(runs: list[dict[str, Any]]) -> bool:
    gains = [r["pretrained"]["map"] - r["scratch"]["map"] for r in runs]
    return len(runs) == len(SEEDS) and mean(gains) >= MARGIN and min(gains) > 0


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, in Markdown; a gate that is missed says so."""
    if not runs:
        return "no runs yet"
    shown = {key: words for key, words in SCORES.items() if key in runs[0]["scratch"]}  # map_75 of the test images only
    columns = ["Faster R-CNN", *shown.values(), "gate", "steps", "seconds", "pretraining"]
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    gate = verdict(passes(runs), runs, MARGIN)
    before = [f"{mean(r[f'pretraining_{key}'] for r in runs):.0f}" for key in ("steps", "seconds")]
    ends = {"pretrained": (gate, f"{before[0]} steps, {before[1]} seconds"), "scratch": ("", "")}
    for name, (end, pretraining) in ends.items():
        cells = [spread([r[name][key] for r in runs]) for key in shown]
        words = "from SimCLR's weights" if name == "pretrained" else "from scratch"
        cost = [str(runs[0]["steps"]), f"{mean(r['seconds'] for r in runs):.0f}"]
        rows.append(f"| {' | '.join([words, *cells, end, *cost, pretraining])} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of pretraining; nothing is saved where fewer")
    parser.add_argument("--steps", type=int, default=STEPS, help="of tuning; nothing is saved where fewer")
    parser.add_argument("--part", choices=("test", "val"), default="test", help="what is scored")
    parser.add_argument("--runs", type=Path, default=Path("runs/learn_detection"), help="where checkpoints go")
    parser.add_argument("--table", action="store_true", help="print the table and end")
    args = parser.parse_args()
    saved = (args.epochs, args.steps, args.part) == (EPOCHS, STEPS, "test")
    runs = read(RESULTS) if saved else []
    if not args.table:
        for seed in args.seeds:
            if any(r["seed"] == seed for r in runs):
                continue
            runs.append(run(seed, args.runs, args.epochs, args.steps, args.part))
            shown = ("seed", "pretrained", "scratch", "pretraining_seconds", "seconds")
            print(json.dumps({key: runs[-1][key] for key in shown}), flush=True)
            if saved:
                write(RESULTS, runs)
    print(table(runs))
    if saved and not args.table and not passes(runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
