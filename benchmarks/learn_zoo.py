"""Do the networks learn labels, and do learned features help where labels are few?

    SSL_LIGHTNING_DATA=DIR python benchmarks/learn_zoo.py     run what results/learn_zoo.json lacks, print the tables
    python benchmarks/learn_zoo.py --parts fit                only these parts: lenet, fit, large, few
    python benchmarks/learn_zoo.py --table                    the tables of docs/backbones.md

DIR/cifar10 has train/<class>/*.jpg and test/<class>/*.jpg. Runs that are in the file already are not repeated.

The gate, fixed before any run was made:

lenet   LeNet-5 tells at least 97 % of the held-out digits, in the mean of the seeds.
fit     The smallest network of every family learns 512 pictures by heart (accuracy 1 on them, in evaluation mode) and
        tells more than twice as many of 1,000 others as chance.
large   The largest ones lower their loss: the mean over the last pass of the same 32 pictures is below the first's.
few     After SimCLR a linear probe is better than on the untrained network, and fine-tuning better than training from
        scratch for as many epochs, with 1 % and with 10 % of 10,000 labels, in each of three seeds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import learn
import lightning.pytorch as L
import torch
from harness import SEEDS, data_folder, machine, protocols, read, spread, test, trainer_of, write
from learn import Cifar
from torch import Tensor

from callbacks import ExactResume
from datamodules import Digits, ImageFolder
from datamodules.images import Splits
from datamodules.sets import Images, Part, balanced_rows
from datamodules.views import CropFlipViews
from ssl_lightning.methods import Classifier, FineTune, LinearProbe

RESULTS = Path(__file__).parent / "results" / "learn_zoo.json"
LENET = 0.97
PICTURES, OTHERS, CHANCE = 512, 1_000, 0.1
AS_THEY_ARE = CropFlipViews(padding=0, flip=0.0)
ADAMW = {"optimizer": "AdamW", "lr": 1e-3, "lr_rule": "none", "weight_decay": 0.0, "warmup_steps": 32}
WITHOUT_NORM = {**ADAMW, "lr": 5e-4}  # and for transformers
SMALL_VIT = {"backbone_args": {"patch_size": 8}}
SMALLEST: dict[str, dict[str, Any]] = {
    "lenet5": ADAMW,
    "alexnet": ADAMW,
    "vgg11": WITHOUT_NORM,
    "googlenet": {**ADAMW, "lr": 2.5e-4},  # it begins with weights of 0.01: steps of 1e-3 are a tenth of them
    "resnet20": ADAMW,
    "densenet121": ADAMW,
    "mobilenetv1_100": ADAMW,
    "mobilenet_v2": ADAMW,
    "mobilenet_v3_small": ADAMW,
    "seresnet18": ADAMW,
    "hrnet_w18_small": ADAMW,
    "vit_tiny_patch16_224": {**WITHOUT_NORM, **SMALL_VIT},
}
HEAVY = ("googlenet", "densenet121", "seresnet18", "hrnet_w18_small")  # more than 2 GFLOP a picture and step
SMALL_STEPS = {**ADAMW, "lr": 1e-4, "schedule": "constant", "warmup_steps": 4}
LARGE: dict[str, dict[str, Any]] = {
    "resnet152": SMALL_STEPS,
    "densenet264": SMALL_STEPS,
    "senet154": SMALL_STEPS,
    "hrnet_w48": SMALL_STEPS,
    "vit_large_patch16_224": {**SMALL_STEPS, "backbone_args": {"patch_size": 8}},
}
FRACTIONS = (0.01, 0.1)
# Of 100 and of 1,000 pictures; fine-tuning takes equal epochs and rates with and without a checkpoint.
FEW_EPOCHS = {0.01: 100, 0.1: 50}
PROBE = {"lr": 0.1, "lr_rule": "none"}
TUNE = {"mixup": 0.0, "cutmix": 0.0, "lr": 1e-3, "lr_rule": "none", "layer_decay": 1.0, "warmup_epochs": 1}


def most_epochs(name: str) -> int:
    most = {"lenet5": 150, "alexnet": 60, "vit_tiny_patch16_224": 60, "googlenet": 40}
    return most.get(name, 20 if name in HEAVY else 30)


class Some(ImageFolder):
    """A few pictures of every class, to learn and to be asked about.

    Args:
        train: How many to learn.
        test: How many to be asked about.
    """

    def __init__(self, root: str, train: int, test: int, **kwargs: Any) -> None:
        super().__init__(root, image_size=32, views=AS_THEY_ARE, cache=True, **kwargs)
        self.sizes = train, test

    def splits(self) -> Splits:
        whole = super().splits()
        assert whole.test is not None

        def some(images: Images, n: int) -> Part:
            return Part(images, balanced_rows(images.labels, n, seed=0))

        train, test = some(whole.train, self.sizes[0]), some(whole.test, self.sizes[1])
        return whole._replace(train=train, bank=train, val=test, test=test)


def accuracy(model: Classifier, loader: Any) -> float:
    """In evaluation mode."""
    right, seen = 0, 0
    model.eval()
    with torch.no_grad():
        for batch in loader:
            x: Tensor = batch.image.float() / 255
            right += int((model.classifier(model.representation(x)).argmax(1) == batch.label).sum())
            seen += len(x)
    model.train()
    return right / seen


class ByHeart(L.Callback):
    """Ends the fit once every training picture is told right."""

    def __init__(self) -> None:
        self.accuracy = 0.0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        bank = trainer.datamodule.val_dataloader()[0]  # type: ignore[attr-defined]
        self.accuracy = accuracy(pl_module, bank)
        print(f"epoch {trainer.current_epoch + 1}: {self.accuracy:.4f} of the training pictures", flush=True)
        trainer.should_stop = self.accuracy == 1


class Losses(L.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self.values.append(float(outputs["loss"]))


def lenet(name: str, seed: int, data: Path, folder: Path, quick: bool) -> dict[str, Any]:
    digits = Digits(in_channels=1, views=CropFlipViews(padding=2, flip=0.0), batch_size=32, seed=seed)
    recipe = {"optimizer": "AdamW", "lr": 2e-3, "lr_rule": "none", "weight_decay": 1e-4}
    model = Classifier(num_classes=10, backbone=name, image_size=32, in_channels=1, **recipe)
    of = trainer_of(folder, ExactResume(), max_epochs=1 if quick else 30)
    of.fit(model, digits)
    right = test(of, model, digits)["test/top1"]
    ids = protocols(of, model, "top1")
    return {"accuracy": right, "epochs": of.current_epoch, "steps": of.global_step, "protocols": ids}


def fit(name: str, seed: int, data: Path, folder: Path, quick: bool) -> dict[str, Any]:
    pictures = Some(str(data), PICTURES, OTHERS, batch_size=16, seed=seed, cache_dir=str(folder.parent / "cache"))
    model = Classifier(num_classes=10, backbone=name, image_size=32, **SMALLEST[name])
    heart = ByHeart()
    of = trainer_of(folder, ExactResume(), heart, max_epochs=1 if quick else most_epochs(name))
    of.fit(model, pictures)
    held_out = test(of, model, pictures)["test/top1"]
    found = {"by_heart": heart.accuracy, "held_out": held_out, "epochs": of.current_epoch, "steps": of.global_step}
    return {**found, "parameters": sum(p.numel() for p in model.parameters())}


def large(name: str, seed: int, data: Path, folder: Path, quick: bool) -> dict[str, Any]:
    pictures = Some(str(data), 32, 10, batch_size=8, seed=seed, cache_dir=str(folder.parent / "cache"))
    model = Classifier(num_classes=10, backbone=name, image_size=32, **LARGE[name])
    losses = Losses()
    of = trainer_of(folder, ExactResume(), losses, max_epochs=1 if quick else 8)
    of.fit(model, pictures)
    first, last = (mean(part) for part in (losses.values[:4], losses.values[-4:]))
    found = {"first": round(first, 4), "last": round(last, 4), "steps": of.global_step}
    return {**found, "parameters": sum(p.numel() for p in model.parameters())}


def few(name: str, seed: int, data: Path, folder: Path, quick: bool) -> dict[str, Any]:
    pretrained = folder.parent / f"SimCLR-{seed}" / "checkpoints" / "last.ckpt"
    if not pretrained.exists():
        learn.run("SimCLR", seed, data.parent, folder.parent, 1 if quick else None)
    found: dict[str, Any] = {}
    ids: dict[str, str] = {}
    start = {"backbone": learn.BACKBONE["backbone"], "image_size": 32, "in_channels": 3}
    for fraction in FRACTIONS:
        for method, recipe in ((LinearProbe, PROBE), (FineTune, TUNE)):
            for origin, given in {"SimCLR": {"checkpoint": str(pretrained)}, "untrained": start}.items():
                L.seed_everything(seed, verbose=False)
                model = method(num_classes=10, **recipe, **given)
                images = Cifar(
                    str(data),
                    image_size=32,
                    cache=True,
                    batch_size=50,
                    label_fraction=fraction,
                    seed=seed,
                    cache_dir=str(folder.parent / "cache"),
                )
                words = f"{method.__name__} {100 * fraction:g} % {origin}"
                of = trainer_of(
                    folder / words.replace(" ", "-"), ExactResume(), max_epochs=1 if quick else FEW_EPOCHS[fraction]
                )
                of.fit(model, images)
                found[words] = round(100 * test(of, model, images)["test/top1"], 2)
                ids[words] = protocols(of, model, "top1")["top1"]
                print(words, found[words], flush=True)
    return {**found, "protocols": ids}


PARTS: dict[str, tuple[Callable[..., dict[str, Any]], list[str], tuple[int, ...]]] = {
    "lenet": (lenet, ["lenet5"], SEEDS),
    "fit": (fit, list(SMALLEST), SEEDS[:1]),
    "large": (large, list(LARGE), SEEDS[:1]),
    "few": (few, ["convnet"], SEEDS),
}


def run(part: str, name: str, seed: int, data: Path, folder: Path, quick: bool) -> dict[str, Any]:
    L.seed_everything(seed, verbose=False)
    start = time.perf_counter()
    found = PARTS[part][0](name, seed, data / "cifar10", folder / f"{part}-{name}-{seed}", quick)
    return {
        "part": part,
        "name": name,
        "seed": seed,
        "found": found,
        "seconds": round(time.perf_counter() - start),
        **machine(),
    }


def pairs(found: dict[str, float]) -> list[tuple[str, float, float]]:
    """What was measured with few labels: words, after SimCLR, without it."""
    names = [words.removesuffix(" SimCLR") for words in found if words.endswith(" SimCLR")]
    return [(words, found[f"{words} SimCLR"], found[f"{words} untrained"]) for words in names]


def passes(part: str, runs: list[dict[str, Any]]) -> bool:
    """Whether the runs of a part pass its gate."""
    mine = [r["found"] for r in runs if r["part"] == part]
    if len(mine) < len(PARTS[part][1]) * len(PARTS[part][2]):
        return False
    if part == "lenet":
        return mean(f["accuracy"] for f in mine) >= LENET
    if part == "fit":
        return all(f["by_heart"] == 1 and f["held_out"] > 2 * CHANCE for f in mine)
    if part == "large":
        return all(f["last"] < f["first"] for f in mine)
    return all(after > without for f in mine for _, after, without in pairs(f))


def said(part: str, runs: list[dict[str, Any]]) -> str:
    _, names, seeds = PARTS[part]
    if absent := sorted(set(names) - {r["name"] for r in runs if r["part"] == part}):
        return f"open, {', '.join(absent)} not run"
    whole = sum(r["part"] == part for r in runs) == len(names) * len(seeds)
    return "passed" if passes(part, runs) else "missed" if whole else "open"


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as tables in Markdown; a part that misses its gate says so."""

    def of(part: str) -> list[dict[str, Any]]:
        places = {name: i for i, name in enumerate(PARTS[part][1])}
        return sorted((r for r in runs if r["part"] == part), key=lambda r: (places[r["name"]], r["seed"]))

    lines: list[str] = []
    if digits := of("lenet"):
        words = spread([100 * r["found"]["accuracy"] for r in digits])
        gate = f"gate {100 * LENET:g} %: {said('lenet', runs)}, {len(digits)} seeds"
        lines += [f"LeNet-5 tells {words} % of the held-out digits ({gate}; {digits[0]['found']['steps']} steps).", ""]
    if fits := of("fit"):
        lines += ["| network | weights | by heart | held out | epochs | seconds |", "|---|---|---|---|---|---|"]
        for r in fits:
            f = r["found"]
            cells = [r["name"], f"{f['parameters'] / 1e6:.2f} M", f"{100 * f['by_heart']:.1f} %"]
            cells += [f"{100 * f['held_out']:.1f} %", str(f["epochs"]), str(r["seconds"])]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"Gate (100 % by heart, over {200 * CHANCE:g} % held out): {said('fit', runs)}.", ""]
    if heavy := of("large"):
        lines += ["| network | weights | loss, first pass | last pass | steps | seconds |", "|---|---|---|---|---|---|"]
        for r in heavy:
            f = r["found"]
            cells = [r["name"], f"{f['parameters'] / 1e6:.1f} M", f"{f['first']:.3f}", f"{f['last']:.3f}"]
            lines.append(f"| {' | '.join([*cells, str(f['steps']), str(r['seconds'])])} |")
        lines += ["", f"Gate (the last is lower): {said('large', runs)}.", ""]
    if labels := of("few"):
        lines += ["| labels | after SimCLR | without |", "|---|---|---|"]
        for i, (words, _, _) in enumerate(pairs(labels[0]["found"])):
            cells = [spread([pairs(r["found"])[i][k] for r in labels]) for k in (1, 2)]  # type: ignore[misc]
            lines.append(f"| {words} | {cells[0]} | {cells[1]} |")
        lines += ["", f"Gate (better in every seed): {said('few', runs)}, {len(labels)} seeds."]
    return "\n".join(lines).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--names", nargs="*", help="only these networks")
    parser.add_argument("--quick", action="store_true", help="an epoch each, to try the script; nothing is saved then")
    parser.add_argument("--runs", type=Path, default=Path("runs/learn_zoo"), help="where checkpoints and the cache go")
    parser.add_argument("--table", action="store_true", help="print the tables and end")
    args = parser.parse_args()
    runs = read(RESULTS)
    if not args.table:
        data = data_folder("cifar10")
        for part in args.parts:
            _, names, seeds = PARTS[part]
            for name, seed in (
                (name, seed) for name in names for seed in seeds if not args.names or name in args.names
            ):
                if any((r["part"], r["name"], r["seed"]) == (part, name, seed) for r in runs):
                    continue
                result = run(part, name, seed, data, args.runs, args.quick)
                print(json.dumps({k: result[k] for k in ("part", "name", "seed", "found", "seconds")}), flush=True)
                if not args.quick:
                    runs = read(RESULTS)  # another part may have written
                    runs.append(result)
                    write(RESULTS, runs)
    print(table(runs))
    if not args.table and not all(passes(part, runs) for part in args.parts):
        sys.exit(1)


if __name__ == "__main__":
    main()
