"""Does it learn? Every method against the same network untrained, on real pictures, in minutes on a CPU.

    SSL_LIGHTNING_DATA=DIR python benchmarks/learn.py          run what results/learn.json lacks, print the table
    python benchmarks/learn.py --table                         the table of the README from results/learn.json

DIR/cifar10/{train,test}/<class>/*.jpg is CIFAR-10. A run is one method and one seed: a small convolutional network
learns from 10,000 training images and is then evaluated, frozen, on the 10,000 test images by `knn-v1` and `linear-v1`;
so is the network that it started from. Of a pretext task each of the network's four blocks is evaluated, and that is
taken which is best on the split of the training images that `linear-v1` chooses its rate on: of the network that was
trained and of the untrained one, each its own. Of VAE, trained or not, it is mu. MultiTag learns from noisy tags
(datamodules.NoisyTags), and is scored by the labels. Runs that are in the file already are not repeated; a run that was
cut goes on.

The gate, fixed before any run was made: the mean gain over the untrained network is at least the method's margin, in
points of linear accuracy and, where the last features are evaluated, of kNN accuracy too; and every seed gains.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import lightning.pytorch as L
import yaml
from harness import SEEDS, data_folder, fit, machine, read, spread, test, trainer_of, upkeep, verdict, write

from callbacks import KNNMonitor, LinearEvaluation
from datamodules import CIFAR10Tags, ImageFolder, NoisyTags
from datamodules.images import Splits
from datamodules.sets import Part, balanced_rows
from ssl_lightning.base import ImageModule
from ssl_lightning.methods import AET, VAE, Classifier, Colorization, Jigsaw, MoCo, MoCoV3, MultiTag, RotNet, SimCLR

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "learn.json"
CONFIGS = HERE.parent / "configs" / "recipe"
IMAGES = 10_000
BACKBONE = {"backbone": "convnet", "image_size": 32}
BLOCKS = [0, 1, 2, 3]


class Cifar(ImageFolder):
    """The first pictures of every class, IMAGES in all; every test picture."""

    def splits(self) -> Splits:
        whole = super().splits()
        part = Part(whole.train, balanced_rows(whole.train.labels, IMAGES, seed=0))
        return whole._replace(train=part, bank=part)


class TaggedCifar(NoisyTags, Cifar):
    """The same with noisy tags, drawn by the seed, for the training alone."""

    groups = CIFAR10Tags.groups


class Recipe(NamedTuple):
    method: type[ImageModule]
    arguments: dict[str, Any]
    epochs: int
    margin: float = 5.0  # points of accuracy
    layers: list[int] | None = None  # to choose from
    batch_size: int = 256
    keys: tuple[str, ...] = ("knn", "linear")  # the scores that are to gain
    data: type[Cifar] = Cifar


def shipped(method: type[ImageModule], margin: float) -> Recipe:
    """The recipe in configs/recipe, with as many steps on a fifth of the images."""
    given = yaml.safe_load((CONFIGS / f"{method.__name__.lower()}_cifar10.yaml").read_text())
    batch_size = given["data"].get("init_args", {}).get("batch_size", 256)
    epochs = 5 * given["trainer"]["max_epochs"]
    return Recipe(method, given["model"]["init_args"], epochs, margin, BLOCKS, batch_size, ("linear",))


# What differs from the papers' numbers, which are for ImageNet: a small batch, a short run, small pictures.
RECIPES = {
    "SimCLR": Recipe(
        SimCLR,
        {"temperature": 0.5, "optimizer": "SGD", "lr": 0.06, "weight_decay": 5e-4, "warmup_epochs": 1},
        20,
    ),
    "MoCo v2": Recipe(
        MoCo,
        {
            "momentum": 0.99,
            "temperature": 0.1,
            "queue_size": 4096,
            "optimizer": "AdamW",  # its head has no batch norm: SGD hardly moves the network in the first epochs
            "lr": 1e-3,
            "weight_decay": 1e-4,
        },
        20,
    ),
    "MoCo v3": Recipe(
        MoCoV3,
        {
            "hidden_dim": 512,
            "temperature": 0.2,
            "optimizer": "SGD",
            "lr": 0.06,
            "weight_decay": 5e-4,
            "warmup_epochs": 1,
        },
        20,
    ),
    "Jigsaw": shipped(Jigsaw, margin=3.0),
    "Colorization": shipped(Colorization, margin=3.0),
    "VAE": Recipe(VAE, {"latent_dim": 256, "lr": 2e-3, "schedule": "cosine"}, 8, margin=3.0, batch_size=128),
    "RotNet": shipped(RotNet, margin=5.0),
    "AET": shipped(AET, margin=5.0),
    "MultiTag": Recipe(
        MultiTag, {"num_tags": 12, "lr": 0.1, "weight_decay": 5e-4, "schedule": "cosine"}, 40, data=TaggedCifar
    ),
    "Classifier": Recipe(Classifier, {"num_classes": 10, "lr": 0.05, "weight_decay": 5e-4}, 20),
}


def run(name: str, seed: int, data: Path, folder: Path, epochs: int | None) -> dict[str, Any]:
    recipe = RECIPES[name]
    arguments = {**BACKBONE, **recipe.arguments}
    L.seed_everything(seed, verbose=False)
    model = recipe.method(**arguments, feature_layer=recipe.layers)
    images = recipe.data(
        root=str(data / "cifar10"),
        image_size=32,
        cache=True,
        batch_size=recipe.batch_size,
        seed=seed,
        cache_dir=str(folder / "cache"),
    )
    trainer = trainer_of(
        folder / f"{name}-{seed}".replace(" ", "-"),
        *upkeep(),
        KNNMonitor(every_n_epochs=0),
        LinearEvaluation(),
        max_epochs=epochs or recipe.epochs,
    )
    untrained = test(trainer, model, images)
    seconds = fit(trainer, model, images)
    trained = test(trainer, model, images)
    return {
        "method": name,
        "seed": seed,
        "trained": scores(trained),
        "untrained": scores(untrained),
        "epochs": trainer.max_epochs,
        "steps": trainer.global_step,
        "fit_seconds": round(seconds),
        "arguments": arguments,
        "batch_size": recipe.batch_size,
        "protocols": [c.protocol for c in trainer.callbacks if isinstance(c, (KNNMonitor, LinearEvaluation))],
        **machine(),
    }


def scores(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Accuracies in percent, of several layers those of the best on the split; and the pretext task's own score."""
    prefix = "test/linear_split_top1"
    layer = max((k for k in metrics if k.startswith(prefix)), key=lambda k: metrics[k])[len(prefix) :]
    found: dict[str, Any] = {key: round(100 * metrics[f"test/{key}_top1{layer}"], 2) for key in ("knn", "linear")}
    if layer:
        found["layer"] = layer[1:]
        found["linear by layer"] = {
            k.split("/")[-1]: round(100 * v, 2) for k, v in metrics.items() if k.startswith("test/linear_top1/")
        }
    return found | {k.split("/")[-1]: round(v, 4) for k, v in metrics.items() if "pretext" in k}


def gains(runs: list[dict[str, Any]], key: str) -> list[float]:
    return [r["trained"][key] - r["untrained"][key] for r in runs]


def passes(name: str, runs: list[dict[str, Any]]) -> bool:
    """Whether a method's runs, of all seeds, pass the gate."""
    recipe, runs = RECIPES[name], [r for r in runs if r["method"] == name]
    by_key = [gains(runs, key) for key in recipe.keys]
    return len(runs) == len(SEEDS) and all(mean(g) >= recipe.margin and min(g) > 0 for g in by_key)


def block(found: dict[str, Any]) -> str:
    """The place of the chosen one."""
    return str(BLOCKS[list(found["linear by layer"]).index(found["layer"])])


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as a table in Markdown; a method that misses the gate says so."""
    columns = ["method", "block", "kNN", "untrained", "linear", "untrained", "gate", "its own task", "steps", "seconds"]
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, recipe in RECIPES.items():
        mine = [r for r in runs if r["method"] == name]
        if not mine:
            continue
        cells = [
            spread([r[state][key] for r in mine]) for key in ("knn", "linear") for state in ("trained", "untrained")
        ]
        layers = sorted({block(r["trained"]) for r in mine} if recipe.layers else {"last"})
        pretext = [key for key in mine[0]["trained"] if key.startswith("pretext")]
        task = "".join(
            f"{key.removeprefix('pretext_')} {spread([r['trained'][key] for r in mine], 2)} "
            f"(untrained {mean(r['untrained'][key] for r in mine):.2f})"
            for key in pretext
        )
        gate = verdict(passes(name, mine), mine, recipe.margin)
        seconds = mean(r["fit_seconds"] for r in mine)
        row = [name, ", ".join(layers), *cells, gate, task, str(mine[0]["steps"]), f"{seconds:.0f}"]
        rows.append(f"| {' | '.join(row)} |")
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
                print(json.dumps({k: result[k] for k in ("method", "seed", "trained", "untrained", "fit_seconds")}))
                if args.epochs is None:
                    runs.append(result)
                    write(RESULTS, runs)
    print(table(runs))
    if not args.table and not all(passes(name, runs) for name in args.methods):
        sys.exit(1)


if __name__ == "__main__":
    main()
