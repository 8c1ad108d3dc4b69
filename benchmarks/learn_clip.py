"""Does CLIP learn? Small models from scratch, in minutes on a CPU.

    SSL_LIGHTNING_DATA=DIR python benchmarks/learn_clip.py     run what results/learn_clip.json lacks, print the table
    python benchmarks/learn_clip.py --table                    the table of docs/evaluation.md

DIR/flickr8k/{train,test}.csv list images and captions (columns filepath, title): 6,091 training images and 1,000 held
out, with five captions each. A small convolutional network and a small text Transformer learn from them, and R@k is
measured on the held-out images: `retrieval-v1`. Chance at k = 10 is 1 % both ways. The captioned digits are embedded;
their held-out images are named by `zeroshot-v1`. Runs that are in the file already are not repeated; a run that was
cut goes on.

The gate, fixed before any run was made: the mean R@10 is at least 5 times chance both ways, where a GPU is used 10
times, and no seed's is below half of that; the mean zero-shot accuracy on digits is at least 0.9.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import lightning.pytorch as L
import yaml
from harness import SEEDS, data_folder, fit, machine, read, spread, test, trainer_of, upkeep, verdict, write

from callbacks import Retrieval, ZeroShot
from datamodules import CropFlipViews, DigitsText, ImageTextCSV
from datamodules.image_text import ImageTextData
from ssl_lightning.methods import CLIP

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "learn_clip.json"
CHANCE = 0.01  # of R@10


class Recipe(NamedTuple):
    """What configs/recipe says of a run."""

    model: dict[str, Any]
    data: dict[str, Any]
    epochs: int


def shipped(name: str) -> Recipe:
    given = yaml.safe_load((HERE.parent / "configs" / "recipe" / f"clip_{name}.yaml").read_text())
    return Recipe(given["model"]["init_args"], given["data"]["init_args"], given["trainer"]["max_epochs"])


RECIPES = {name: shipped(name) for name in ("flickr8k", "digits")}
SHOWN = {
    "flickr8k": [f"retrieval_{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)],
    "digits": ["zeroshot_top1"],
}


def data_of(name: str, seed: int, root: Path, cache: Path) -> ImageTextData:
    given = {**RECIPES[name].data, "seed": seed}
    given["views"] = CropFlipViews(**given["views"]["init_args"])
    if name == "digits":
        return DigitsText(**given)
    given |= {part: str(root / given[part]) for part in ("train", "test")}
    return ImageTextCSV(**{**given, "cache_dir": str(cache)})


def run(name: str, seed: int, root: Path, folder: Path, epochs: int | None, accelerator: str) -> dict[str, Any]:
    recipe = RECIPES[name]
    L.seed_everything(seed, verbose=False)
    data = data_of(name, seed, root, folder / "cache")
    score = ZeroShot(every_n_epochs=0) if name == "digits" else Retrieval(every_n_epochs=0)
    model = CLIP(
        vocab_size=data.vocab_size,
        end_token=data.end_token,
        max_tokens=data.max_tokens,
        image_size=data.image_size,
        **recipe.model,
    )
    trainer = trainer_of(
        folder / f"{name}-{seed}", *upkeep(), score, max_epochs=epochs or recipe.epochs, accelerator=accelerator
    )
    seconds = fit(trainer, model, data)
    found = test(trainer, model, data)
    return {
        "data": name,
        "seed": seed,
        "scores": {key: round(found[f"test/{key}"], 4) for key in SHOWN[name]},
        "scale": round(model.logit_scale.exp().item(), 1),
        "epochs": trainer.max_epochs,
        "steps": trainer.global_step,
        "fit_seconds": round(seconds),
        "recipe": recipe._asdict(),
        "protocol": score.protocol,
        "device": accelerator,
        **machine(),
    }


def passes(name: str, runs: list[dict[str, Any]]) -> bool:
    """Whether the runs of all seeds pass the gate."""
    runs = [r for r in runs if r["data"] == name]
    if len(runs) != len(SEEDS):
        return False
    if name == "digits":
        return mean(r["scores"]["zeroshot_top1"] for r in runs) >= 0.9
    least = CHANCE * (5 if all(r["device"] == "cpu" for r in runs) else 10)
    by_way = [[r["scores"][f"retrieval_{way}_r10"] for r in runs] for way in ("i2t", "t2i")]
    return all(mean(values) >= least and min(values) >= least / 2 for values in by_way)


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as a table in Markdown; one that misses the gate says so."""
    rows = ["| data | score | % | gate | steps | seconds |", "|---|---|---|---|---|---|"]
    for name in RECIPES:
        mine = [r for r in runs if r["data"] == name]
        for key in SHOWN[name] if mine else []:
            values = [100 * r["scores"][key] for r in mine]
            gate = verdict(passes(name, mine), mine) if key == SHOWN[name][-1] else ""
            seconds = f"{mean(r['fit_seconds'] for r in mine):.0f}"
            rows.append(f"| {name} | {key} | {spread(values)} | {gate} | {mine[0]['steps']} | {seconds} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, help="fewer, to try the script; nothing is saved then")
    parser.add_argument("--runs", type=Path, default=Path("runs/learn_clip"), help="where checkpoints and the cache go")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--table", action="store_true", help="print the table and end")
    args = parser.parse_args()
    runs = read(RESULTS)
    if not args.table:
        root = data_folder("flickr8k/train.csv") if "flickr8k" in args.data else Path()
        for seed in args.seeds:
            for name in args.data:
                if any(r["data"] == name and r["seed"] == seed for r in runs):
                    continue
                result = run(name, seed, root, args.runs, args.epochs, args.accelerator)
                print(json.dumps({k: result[k] for k in ("data", "seed", "scores", "scale", "steps", "fit_seconds")}))
                if args.epochs is None:
                    runs.append(result)
                    write(RESULTS, runs)
    print(table(runs))
    if not args.table and not all(passes(name, runs) for name in args.data):
        sys.exit(1)


if __name__ == "__main__":
    main()
