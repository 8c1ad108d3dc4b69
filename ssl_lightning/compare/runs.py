"""What a comparison knows of a run, and how it is read from results.json."""

import json
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Arguments of data that change neither what is scored nor the samples that the evaluations learn from.
TRAINING_ONLY = {"batch_size", "views", "unlabelled", "boxes", "max_gap", "box_sizes", "train_videos", "val_videos"}
TRAINING_ONLY |= {"train_on", "tokenizer", "vocab_size", "flip"}
TRAINING_ONLY |= {"fine", "coarse", "wrong", "column", "min_count", "max_share"}  # of tags
MACHINE = {"seed", "num_workers", "cache", "cache_dir", "class_names"}  # and those that are no choice of how to train
DOWNLOADED = {"CIFAR10", "CIFAR100", "CIFAR10Tags", "STL10"}  # their root says where they lie, not what they are
TRAINER = ["max_epochs", "max_steps", "max_time", "precision", "accumulate_grad_batches", "gradient_clip_val"]
TRAINER += ["gradient_clip_algorithm", "limit_train_batches", "devices", "num_nodes", "strategy", "sync_batchnorm"]
EVALUATIONS = ("knn", "linear")  # sections of config.yaml that the names of their scores begin with


@dataclass(frozen=True)
class Score:
    """A number of a run.

    Args:
        name: Such as `knn_top1`; what stands after a comma says of what else it is: `knn_top1, untrained`.
        value: As in results.json: an accuracy lies in [0, 1].
        protocol: How it was measured; empty where nothing says so.
        layer: Whose features; empty: the last ones.
    """

    name: str
    value: float
    protocol: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Run:
    """A run to compare: `read` makes it of a results.json, a benchmark of what it has measured.

    Args:
        name: Of the run, such as its folder's.
        model: The method.
        data: The data set that was scored.
        scores: Its numbers.
        seed: None where it is not known.
        family: Of the method.
        data_arguments: What else says which data they are.
        arguments: What the run was made with, but for its seed: `model.lr`, `data.batch_size`, `trainer.max_epochs`.
        evaluation: The settings of the evaluations while it trained, by the first part of their scores' names.
        facts: Commit, time, versions and so on.
        folder: Where metrics.jsonl and pictures/ may be.
    """

    name: str
    model: str
    data: str
    scores: tuple[Score, ...]
    seed: int | None = None
    family: str = ""
    data_arguments: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


def read(path: Path) -> Run:
    """The run of a folder, or of a results.json under any name.

    Raises:
        FileNotFoundError: the folder has no results.json.
        ValueError: the file is none of ours, or not whole.
    """
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError("no results.json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not whole ({error})") from None
    metrics, protocols, model, versions = (_part(found, key) for key in ("metrics", "protocols", "model", "versions"))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in metrics.values())
    if (
        not metrics
        or not numbers
        or not all(isinstance(v, str) for v in protocols.values())
        or "class_path" not in model
    ):
        raise ValueError(f"{file.name} was not written by ssl-lightning test")
    config, data = _part(found, "config"), _part(found, "data")
    trained_on = _part(config, "data") or data
    arguments = {"model.class_path": model["class_path"]}
    arguments |= {f"model.{key}": value for key, value in _part(model, "init_args").items()}
    arguments |= {f"data.{k}": v for k, v in _part(trained_on, "init_args").items() if k not in _aside(trained_on)}
    arguments |= {f"trainer.{key}": value for key, value in _part(config, "trainer").items() if key in TRAINER}
    facts = {key: found[key] for key in ("commit", "time", "checkpoint", "hardware") if found.get(key)}
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    seed = found.get("seed")
    in_a_run = file.name == "results.json"
    return Run(
        name=file.resolve().parent.name if in_a_run else file.stem,
        model=class_name(model),
        data=class_name(data),
        scores=tuple(_score(name, float(value), protocols.get(name, "")) for name, value in metrics.items()),
        seed=seed if isinstance(seed, int) else None,
        family=family(str(model["class_path"])),
        data_arguments=_identity(data),
        arguments={**arguments, "data": class_name(trained_on), "precision of test": found.get("precision")},
        evaluation={name: _settings(_part(config, name)) for name in EVALUATIONS if name in config},
        facts={key: str(value) for key, value in facts.items()},
        folder=file.parent if in_a_run else None,
    )


def _part(whole: Any, key: str) -> dict[str, Any]:
    """A dict in a dict, or an empty one."""
    part = whole.get(key) if isinstance(whole, dict) else None
    return part if isinstance(part, dict) else {}


def class_name(described: dict[str, Any]) -> str:
    return str(described.get("class_path", "unknown")).split(".")[-1]


def family(path: str) -> str:
    """`transform prediction` of ssl_lightning.methods.transform_prediction.rotnet; empty of a user's own module."""
    found = re.match(r"ssl_lightning\.methods\.(\w+)\.\w", path)
    return found[1].replace("_", " ") if found else ""


def _aside(data: dict[str, Any]) -> set[str]:
    return MACHINE | ({"root"} if class_name(data) in DOWNLOADED else set())


def _identity(data: dict[str, Any]) -> dict[str, Any]:
    """The arguments that say which data they are; the names of the classes as a checksum, for they may be many."""
    arguments = _part(data, "init_args")
    kept = {key: value for key, value in arguments.items() if key not in TRAINING_ONLY | _aside(data)}
    names = arguments.get("class_names")
    return kept | ({"classes": f"{len(names)}, {zlib.crc32(plain(names).encode()):08x}"} if names else {})


def _settings(given: dict[str, Any]) -> str:
    kept = {k: v for k, v in given.items() if k not in ("every_n_epochs", "name") and v is not None}
    return ", ".join(f"{key}={plain(value)}" for key, value in kept.items())


def _score(metric: str, value: float, protocol: str) -> Score:
    """Of `test/knn_top1`, or `test/knn_top1/layer2`; where a single layer was scored, the protocol ends in its name."""
    name, _, layer = metric.removeprefix("test/").partition("/")
    if found := re.fullmatch(r"(.+),layer ([^, ]+)", protocol):
        protocol, layer = found.groups()
    return Score(name, value, protocol, layer)


def plain(value: Any) -> str:
    """A value as words, equal for equal values."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
