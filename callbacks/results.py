"""results.json: every number of a test with what is needed to know what it means."""

import inspect
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from callbacks.features import feature_scores, is_dry_run

PACKAGES = ("ssl-lightning", "torch", "torchvision", "lightning", "timm", "transformers", "tokenizers", "pycocotools")


@contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears at `path`, folders and all, once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that appears at `path` once it is whole.

    Raises:
        FileExistsError: there is a folder with something in it, or a file.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists: give the name of a new folder")
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@runtime_checkable
class ReadsLayers(Protocol):
    """A model whose features are those of inner layers, by name."""

    feature_layers: list[str]


@runtime_checkable
class NamesProtocols(Protocol):
    """A model or callback with scores of its own: their names without `test/`, and the protocol of each."""

    @property
    def protocols(self) -> dict[str, str]: ...


@runtime_checkable
class DrawsLabels(Protocol):
    """A datamodule that may use a part of the labels, and says which: `indices` of images, and more."""

    def labelled_indices(self) -> dict[str, Any] | None: ...


def labels_in_use(trainer: Trainer) -> dict[str, Any] | None:
    """What the datamodule says of the labelled images it uses; None where it uses all."""
    data = getattr(trainer, "datamodule", None)
    return data.labelled_indices() if isinstance(data, DrawsLabels) else None


class ResultsFile(Callback):
    """At the end of `test`, prints a table of the numbers and writes `results.json` into the run's folder.

    Beside each number stands the protocol it was measured by. The file also holds the model and the data with
    their arguments, the seed, the checkpoint, the versions, the hardware of the test, the git commit of the working
    folder, the time.
    """

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or is_dry_run(trainer):
            return
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
        metrics = {k: logged[k] for k in sorted(logged, key=score_of)}  # the layers of a score as they come
        protocols = self.protocols_of(trainer, pl_module, metrics)
        print(table(metrics, protocols))
        seed = os.environ.get("PL_GLOBAL_SEED")
        data = getattr(trainer, "datamodule", None)
        results = {
            "metrics": metrics,
            "protocols": protocols,
            "model": described(pl_module),
            "data": None if data is None else described(data),
            "checkpoint": trainer.ckpt_path and str(trainer.ckpt_path),
            "seed": seed and int(seed),
            "precision": str(trainer.precision),
            "config": run_config(Path(trainer.default_root_dir)),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            "hardware": hardware(trainer),
            "commit": git_commit(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with atomic_open(Path(trainer.default_root_dir, "results.json")) as file:
            file.write(json.dumps(results, indent=2, default=plain).encode() + b"\n")

    def protocols_of(
        self, trainer: Trainer, pl_module: LightningModule, metrics: Mapping[str, float]
    ) -> dict[str, str]:
        """The protocol of every metric that has one."""
        found = {}
        few = labels_in_use(trainer)
        labels = "" if few is None else f",{len(few['indices'])} labels"
        layers = pl_module.feature_layers if isinstance(pl_module, ReadsLayers) else []
        for metric in metrics:
            scores = [s for s in feature_scores(trainer) if metric.startswith(f"test/{s.name}_")]
            if scores:
                score = max(scores, key=lambda s: len(s.name))
                found[metric] = score.protocol + labels * score.needs_labels
                if layers and metric == score_of(metric):  # else the layer is in the name
                    found[metric] += f",layer {layers[0]}"
        for source in (pl_module, *vars(trainer)["callbacks"]):
            own = source.protocols if isinstance(source, NamesProtocols) else {}
            found |= {m: own[name] for m in metrics if (name := score_of(m).removeprefix("test/")) in own}
        return found


def hardware(trainer: Trainer) -> str:
    """How many processes, each on what."""
    device = trainer.strategy.root_device
    cpu = f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
    return f"{trainer.world_size} x {torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu}"


def score_of(metric: str) -> str:
    """`test/knn_top1` of `test/knn_top1/layer2`."""
    return "/".join(metric.split("/")[:2])


def table(metrics: Mapping[str, float], protocols: Mapping[str, str]) -> str:
    """Lines of score, value and protocol, in columns; a protocol stands beside the first of its scores.

    Scores of several layers, `test/<score>/<layer>`, follow as a table with a line for each layer.
    """
    scores: dict[str, dict[str, float]] = {}  # by layer, "" where there is one only
    for metric, value in metrics.items():
        scores.setdefault(score_of(metric), {})[metric[len(score_of(metric)) + 1 :]] = value
    width = max(map(len, scores), default=0)
    lines, above = [f"{'score':<{width}}  {'value':>9}  protocol"], ""
    for score, values in scores.items():
        value_words = f"{values['']:.4g}" if "" in values else "by layer"
        protocol = next((protocols[m] for m in metrics if score_of(m) == score and m in protocols), "")
        lines.append(f"{score:<{width}}  {value_words:>9}  {protocol if protocol != above else ''}".rstrip())
        above = protocol
    columns = {score: values for score, values in scores.items() if "" not in values}
    layers = list(dict.fromkeys(layer for values in columns.values() for layer in values))
    width = max(map(len, ["layer", *layers]))
    if columns:
        lines += ["", "  ".join([f"{'layer':<{width}}", *columns])]
    for layer in layers:
        cells = (f"{values.get(layer, math.nan):{len(score)}.4g}" for score, values in columns.items())
        lines.append("  ".join([f"{layer:<{width}}", *cells]))
    return "\n".join(lines)


def plain(value: Any) -> Any:
    """An object as JSON can hold it: its class and what it was made with."""
    kept = {k: v for k, v in vars(value).items() if not k.startswith("_")} if hasattr(value, "__dict__") else str(value)
    return {type(value).__name__: kept}


def run_config(folder: Path) -> dict[str, Any] | None:
    """What the run in a folder was started with; None where there is no config.yaml."""
    path = folder / "config.yaml"
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def described(thing: LightningModule | LightningDataModule) -> dict[str, Any]:
    """The class of a model or datamodule and its arguments: saved, or else kept under their names."""
    constructors = [vars(cls)["__init__"] for cls in type(thing).__mro__ if "__init__" in vars(cls)]
    names = [name for init in constructors for name in inspect.signature(init).parameters]
    arguments = dict(thing.hparams) or {name: vars(thing)[name] for name in names if name in vars(thing)}
    return {"class_path": f"{type(thing).__module__}.{type(thing).__qualname__}", "init_args": arguments}


def git_commit() -> str | None:
    """The commit of the working folder, with "+changes" where it is not clean; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return described.stdout.strip() if described.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # optional, or run from its source folder
        return None
