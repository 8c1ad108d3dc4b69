"""What the gates share: the trainer, a fit that goes on where it was cut, results files, and words for tables."""

import json
import os
import platform
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightning.pytorch as L
import torch

from callbacks import ExactResume, FiniteLoss, RunCheckpoint
from callbacks.results import ResultsFile, atomic_open
from ssl_lightning import __version__

SEEDS = (0, 1, 2)
Record = dict[str, Any]  # of a results file


def data_folder(*holding: str) -> Path:
    """SSL_LIGHTNING_DATA; the program ends with words if it has not what is asked for."""
    given = os.environ.get("SSL_LIGHTNING_DATA")
    if missing := [name for name in holding if given is None or not Path(given, name).exists()]:
        sys.exit(f"set SSL_LIGHTNING_DATA to a folder with {' and '.join(missing)}")
    return Path(given or "")


def trainer_of(folder: Path, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    """Of one process, without a bar and without validation during the fit."""
    return L.Trainer(
        **{
            "default_root_dir": folder,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "limit_val_batches": 0,
            "callbacks": [FiniteLoss(), *callbacks],
            **settings,
        }
    )


def upkeep(**every: int) -> list[L.Callback]:
    """The callbacks by which a run that was cut goes on."""
    return [ExactResume(), RunCheckpoint(**every)]


def fit(trainer: L.Trainer, model: L.LightningModule, data: L.LightningDataModule) -> float:
    """Bring a run to its end, from its last checkpoint if there is one; the seconds of all its parts."""
    folder = Path(trainer.default_root_dir)
    last, clock = folder / "checkpoints" / "last.ckpt", folder / "seconds"
    before = float(clock.read_text()) if last.exists() and clock.exists() else 0.0
    start = time.perf_counter()
    try:
        trainer.fit(model, data, ckpt_path=last if last.exists() else None, weights_only=True)
    finally:
        seconds = before + time.perf_counter() - start
        folder.mkdir(parents=True, exist_ok=True)
        clock.write_text(str(seconds))
    return seconds


def test(trainer: L.Trainer, model: L.LightningModule, data: L.LightningDataModule) -> dict[str, float]:
    """The scores of all loaders."""
    return {k: v for loader in trainer.test(model, data, verbose=False) for k, v in loader.items()}


def protocols(trainer: L.Trainer, model: L.LightningModule, *scores: str) -> dict[str, str]:
    """The ids that `results.json` would name for these scores of the last test."""
    found = ResultsFile().protocols_of(trainer, model, {f"test/{score}": 0.0 for score in scores})
    return {name.removeprefix("test/"): words for name, words in found.items()}


def machine() -> Record:
    """What a run was made with."""
    versions = {"ssl_lightning": __version__, "torch": torch.__version__, "lightning": L.__version__}
    return {
        "versions": {**versions, "python": platform.python_version()},
        "hardware": f"{torch.get_num_threads()} threads, {platform.machine()}",
    }


def read(results: Path) -> list[Record]:
    """The runs in a results file; none if there is no file."""
    return json.loads(results.read_text()) if results.exists() else []


def write(results: Path, runs: list[Record]) -> None:
    results.parent.mkdir(exist_ok=True)
    with atomic_open(results) as file:
        file.write((json.dumps(runs, indent=1) + "\n").encode())


def spread(values: list[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def verdict(passed: bool, runs: list[Record], margin: float | None = None) -> str:
    """What a table says of the gate."""
    least = "" if margin is None else f"+{margin:g} "
    return f"{least}{'passed' if passed else 'missed'}, {len(runs)} seeds"
