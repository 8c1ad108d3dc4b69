"""Does UDT learn to track? From unlabelled video, in minutes on a CPU.

    SSL_LIGHTNING_DATA=DIR python benchmarks/learn_tracking.py     run what results/learn_tracking.json lacks
    python benchmarks/learn_tracking.py --table                    the tables of docs/tracking.md

DIR/tracking/{David,bag,Crossing} are sequences in OTB's layout. UDT learns from the training videos of MovingDigits and
the frames of David and bag, without boxes; DCF, the yardstick, from the same digits with theirs. They are scored by
`ope-v1` and `pairs-v1` on the 30 test videos, which share no digit and no part of a photograph with the others, beside
the same network untrained and the pixels themselves (the same tracker on normalised pixels). Crossing, which no network
has seen, and David and bag, whose frames UDT has, are reported and not gated. Runs that are in the file already are not
repeated; a run that was cut goes on. Recipes were chosen on validation videos: `--part val` scores those, and saves
nothing.

The gate, fixed before any run on the test videos: the mean success AUC of UDT over the seeds is at least 0.05 above
that of the untrained network and that of pixels, every seed gains on its own initialisation, and so does its share of
frame pairs at k = 10.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import lightning.pytorch as L
import yaml
from harness import SEEDS, data_folder, fit, machine, read, spread, trainer_of, upkeep, verdict, write
from torch import Tensor

from callbacks import FramePairs, OnePassEvaluation
from datamodules import MovingDigits, VideoFolder
from ssl_lightning.methods import DCF, UDT
from ssl_lightning.siamese import SiameseModule

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "learn_tracking.json"
MARGIN = 0.05  # of success AUC
METHODS: dict[str, type[SiameseModule]] = {"UDT": UDT, "DCF": DCF}
SEQUENCES = {"Crossing": "unseen", "David": "seen, unlabelled", "bag": "seen, unlabelled"}
RECIPE = yaml.safe_load((HERE.parent / "configs" / "recipe" / "udt_moving_digits.yaml").read_text())


class Pixels(UDT):
    """The pixels as features."""

    def maps(self, x: Tensor) -> Tensor:
        return self.backbone.normalise(x)


def digits(method: str, seed: int, root: Path) -> MovingDigits:
    further = [str(root / name) for name in RECIPE["data"]["init_args"]["unlabelled"]]
    given = {**RECIPE["data"]["init_args"], "unlabelled": further if method == "UDT" else []}
    return MovingDigits(**given, seed=seed)


def scores(
    model: SiameseModule, root: Path, folder: Path, accelerator: str, part: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the held-out digits, and of each real sequence: the numbers and their protocols."""
    found, protocols = {}, {}
    for name in ("digits", *SEQUENCES):
        data: Any = MovingDigits(train_videos=1)
        if name in SEQUENCES:
            data = VideoFolder(str(root / "tracking" / name), image_size=model.image_size)
        run = trainer_of(folder / name, accelerator=accelerator, limit_val_batches=1.0)
        evaluate = run.validate if part == "val" and name == "digits" else run.test
        (metrics,) = evaluate(model, data, verbose=False)
        found[name] = {key.split("/")[1]: round(value, 4) for key, value in metrics.items()}
        measured = [c for c in run.callbacks if isinstance(c, (OnePassEvaluation, FramePairs))]
        protocols[name] = {score: words for callback in measured for score, words in callback.protocols.items()}
    return found, protocols


def model_of(method: str, seed: int) -> SiameseModule:
    L.seed_everything(seed, verbose=False)
    arguments = {"image_size": 64, **RECIPE["model"].get("init_args", {})}
    return METHODS.get(method, Pixels)(**arguments)


def run(method: str, seed: int, root: Path, folder: Path, epochs: int | None, accelerator: str, part: str) -> Any:
    """Scores of a method trained and untrained; of pixels."""
    folder = folder / f"{method}-{seed}"
    result: dict[str, Any] = {"method": method, "seed": seed}
    model = model_of(method, seed)
    if method == "UDT":  # DCF begins with the same weights
        result["untrained"], _ = scores(model, root, folder / "untrained", accelerator, part)
    if method in METHODS:
        length = epochs or RECIPE["trainer"]["max_epochs"]
        trainer = trainer_of(folder, *upkeep(), max_epochs=length, accelerator=accelerator)
        seconds = fit(trainer, model, digits(method, seed, root))
        result |= {"fit_seconds": round(seconds), "steps": trainer.global_step}
    found, protocols = scores(model, root, folder, accelerator, part)
    return result | {
        "scores": found,
        "protocols": protocols,
        "recipe": RECIPE,
        "device": accelerator,
        **machine(),
    }


def values(runs: list[dict[str, Any]], data: str, key: str) -> dict[str, list[float]]:
    """A score by who has it, a number for each seed."""
    udt = [r for r in runs if r["method"] == "UDT"]
    found = {method: [r["scores"][data][key] for r in runs if r["method"] == method] for method in METHODS}
    found["untrained"] = [r["untrained"][data][key] for r in udt]
    found["pixels"] = [r["scores"][data][key] for r in runs if r["method"] == "pixels"]
    return {name: numbers for name, numbers in found.items() if numbers}


def passes(runs: list[dict[str, Any]]) -> bool:
    """Whether UDT passes the gate."""
    auc, pairs = (values(runs, "digits", key) for key in ("ope_success_auc", "pairs_k10"))
    if len(auc.get("UDT", [])) != len(SEEDS) or "pixels" not in auc:
        return False
    gains = [a > b for of in (auc, pairs) for a, b in zip(of["UDT"], of["untrained"], strict=True)]
    least = max(mean(auc["untrained"]), mean(auc["pixels"])) + MARGIN
    return mean(auc["UDT"]) >= least and all(gains)


def table(runs: list[dict[str, Any]]) -> str:
    """The scores of the held-out digits, in Markdown; a gate that is missed says so."""
    shown = {"ope_success_auc": "AUC", "ope_precision_20": "at 20 px"} | {
        f"pairs_k{k}": f"k={k}" for k in (1, 5, 10, 20)
    }
    rows = [
        "| features | " + " | ".join(shown.values()) + " | gate | steps | seconds |",
        "|---" * (len(shown) + 4) + "|",
    ]
    by_score = {key: values(runs, "digits", key) for key in shown}
    for name in by_score["ope_success_auc"]:
        cells = [spread(by_score[key][name], 3) for key in shown]
        mine = [r for r in runs if r["method"] == name and "steps" in r]
        gate = verdict(passes(runs), mine) if name == "UDT" else ""
        end = [gate, str(mine[0]["steps"]), f"{mean(r['fit_seconds'] for r in mine):.0f}"] if mine else ["", "", ""]
        rows.append(f"| {name} | " + " | ".join([*cells, *end]) + " |")
    return "\n".join(rows)


def real(runs: list[dict[str, Any]]) -> str:
    """Success AUC and precision of the real sequences."""
    names = list(values(runs, "digits", "ope_success_auc"))
    rows = ["| sequence | frames to UDT | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for sequence, seen in SEQUENCES.items():
        auc, near = (values(runs, sequence, f"ope_{key}") for key in ("success_auc", "precision_20"))
        cells = [f"{spread(auc[name], 3)}, {mean(near[name]):.2f}" for name in names]
        rows.append(f"| {sequence} | {seen} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=["pixels", *METHODS], choices=["pixels", *METHODS])
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, help="fewer, to try the script; nothing is saved then")
    parser.add_argument("--part", choices=("val", "test"), default="test", help="val: nothing is saved")
    parser.add_argument("--runs", type=Path, default=Path("runs/learn_tracking"), help="where checkpoints go")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--table", action="store_true", help="print the tables and end")
    args = parser.parse_args()
    runs = read(RESULTS)
    saved = args.epochs is None and args.part == "test"
    if not args.table:
        root = data_folder(*(f"tracking/{name}" for name in SEQUENCES))
        for method in args.methods:
            for seed in args.seeds if method in METHODS else [0]:
                if saved and any(r["method"] == method and r["seed"] == seed for r in runs):
                    continue
                result = run(method, seed, root, args.runs, args.epochs, args.accelerator, args.part)
                print(json.dumps({k: v for k, v in result.items() if k not in ("recipe", "versions", "protocols")}))
                sys.stdout.flush()
                runs.append(result)
                if saved:
                    write(RESULTS, runs)
    print(table(runs), real(runs), sep="\n\n")
    if saved and not args.table and not passes(runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
