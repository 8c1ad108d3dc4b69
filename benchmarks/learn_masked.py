"""Does hiding patches teach? MAE and SimMIM against the same vision transformer untrained, and from scratch.

    SSL_LIGHTNING_DATA=DIR python benchmarks/learn_masked.py   run what results/learn_masked.json lacks, print the table
    python benchmarks/learn_masked.py --table                  the table of the README

The data, the frozen evaluation and its words are those of benchmarks/learn.py; the network is a small transformer on
patches of 4 px, whose features are the mean of its patches. Then FineTune trains all weights on 2,000 labelled images,
beginning with those that were learned, and, for as many epochs, the same network from its own first weights; what
stands in the table is the accuracy on the test images after the last epoch.

The gate, fixed before any run was made: linear accuracy gains at least 3 points over the untrained network, fine-tuning
is better than from scratch, in the mean of three seeds and in each.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import learn
import lightning.pytorch as L
from harness import SEEDS, data_folder, fit, read, spread, test, trainer_of, upkeep, verdict, write
from learn import Cifar, Recipe, gains

from datamodules.images import Splits
from datamodules.sets import Part, balanced_rows
from ssl_lightning.methods import MAE, FineTune, SimMIM

RESULTS = Path(__file__).parent / "results" / "learn_masked.json"
LABELLED, TUNING_EPOCHS = 2_000, 10
NET = {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3}
VIT = {"backbone": "vit_tiny_patch16_224", "backbone_args": {**NET, "global_pool": "avg", "fc_norm": False}}
ADAMW = {"lr": 1.5e-3, "lr_rule": "none", "warmup_epochs": 2, "schedule": "cosine"}
RECIPES = {
    "MAE": Recipe(
        MAE,
        {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4, **VIT, **ADAMW},
        20,
        margin=3.0,
        batch_size=128,
        keys=("linear",),
    ),
    "SimMIM": Recipe(SimMIM, {**VIT, **ADAMW}, 10, margin=3.0, batch_size=128, keys=("linear",)),
}


class Few(Cifar):
    """A fifth of the pictures of every class."""

    def splits(self) -> Splits:
        whole = super().splits()
        part = Part(whole.train, balanced_rows(whole.train.labels, LABELLED, seed=0))
        return whole._replace(train=part, bank=part)


def tune(name: str, seed: int, data: Path, folder: Path, checkpoint: Path | None, epochs: int | None) -> float:
    """Accuracy in percent after fine-tuning from a checkpoint, or of the same network from scratch."""
    L.seed_everything(seed, verbose=False)
    pooled = {"global_pool": "avg"}
    start: dict[str, Any] = {"backbone": VIT["backbone"], "backbone_args": {**NET, **pooled}, "layer_decay": 1.0}
    if checkpoint is not None:
        start = {"checkpoint": str(checkpoint), "backbone_args": {**pooled, "fc_norm": True}, "layer_decay": 0.8}
    recipe = {"mixup": 0.0, "cutmix": 0.0, "lr": 1e-3, "lr_rule": "none", "warmup_epochs": 1}
    model = FineTune(num_classes=10, image_size=32, in_channels=3, **recipe, **start)
    images = Few(
        str(data / "cifar10"), image_size=32, cache=True, batch_size=64, seed=seed, cache_dir=str(folder / "cache")
    )
    ends = folder / f"{name}-{seed}-{'tuned' if checkpoint else 'scratch'}"
    trainer = trainer_of(ends, *upkeep(), max_epochs=epochs or TUNING_EPOCHS)
    fit(trainer, model, images)
    return round(100 * test(trainer, model, images)["test/top1"], 2)


def run(name: str, seed: int, data: Path, folder: Path, epochs: int | None) -> dict[str, Any]:
    learn.RECIPES[name] = RECIPES[name]
    result = learn.run(name, seed, data, folder, epochs)
    start = time.perf_counter()
    checkpoint = folder / f"{name}-{seed}" / "checkpoints" / "last.ckpt"
    result["tuned"] = tune(name, seed, data, folder, checkpoint, epochs)
    result["scratch"] = tune(name, seed, data, folder, None, epochs)
    return {**result, "tuning_seconds": round(time.perf_counter() - start)}


def passes(name: str, runs: list[dict[str, Any]]) -> bool:
    mine = [r for r in runs if r["method"] == name]
    linear, tuned = gains(mine, "linear"), [r["tuned"] - r["scratch"] for r in mine]
    return len(mine) == len(SEEDS) and mean(linear) >= RECIPES[name].margin and min(linear + tuned) > 0


def table(runs: list[dict[str, Any]]) -> str:
    columns = ["method", "linear", "untrained", "fine-tuned", "from scratch", "kNN", "untrained", "gate", "steps"]
    columns += ["seconds", "tuning"]
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, recipe in RECIPES.items():
        mine = [r for r in runs if r["method"] == name]
        if not mine:
            continue
        linear, knn = (
            [spread([r[state][key] for r in mine]) for state in ("trained", "untrained")] for key in ("linear", "knn")
        )
        tuned = [spread([r[key] for r in mine]) for key in ("tuned", "scratch")]
        gate = verdict(passes(name, mine), mine, recipe.margin)
        seconds = [f"{mean(r[key] for r in mine):.0f}" for key in ("fit_seconds", "tuning_seconds")]
        rows.append(f"| {' | '.join([name, *linear, *tuned, *knn, gate, str(mine[0]['steps']), *seconds])} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, help="fewer, to try the script; nothing is saved then")
    parser.add_argument("--runs", type=Path, default=Path("runs/learn"), help="where checkpoints and the cache go")
    parser.add_argument("--table", action="store_true", help="print the table and end")
    args = parser.parse_args()
    runs = read(RESULTS)
    if not args.table:
        data = data_folder("cifar10")
        for seed in args.seeds:
            for name in args.methods:
                if any(r["method"] == name and r["seed"] == seed for r in runs):
                    continue
                result = run(name, seed, data, args.runs, args.epochs)
                print(json.dumps({k: v for k, v in result.items() if k not in ("arguments", "protocols")}), flush=True)
                if args.epochs is None:
                    runs.append(result)
                    write(RESULTS, runs)
    print(table(runs))
    if not args.table and not all(passes(name, runs) for name in args.methods):
        sys.exit(1)


if __name__ == "__main__":
    main()
