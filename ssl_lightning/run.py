"""A run is one folder: where it is, what is written into it, and what is said about it."""

import json
import math
import os
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from callbacks.results import atomic_open
from ssl_lightning.export import read_checkpoint


class Saved(NamedTuple):
    """What a checkpoint says of its method."""

    class_path: str
    init_args: dict[str, Any]
    tokenizer: str | None  # JSON, of a method on text


def find_checkpoint(run: str | None, ckpt_path: str | None) -> Path | None:
    """The file that ``--ckpt_path`` means.

    Raises:
        ValueError: a word of Lightning's that does not hold here, or ``last`` without ``--run``.
        FileNotFoundError: there is no such file.
    """
    if ckpt_path is None:
        return None
    if ckpt_path == "last":
        if run is None:
            raise ValueError("--ckpt_path last needs --run DIR, the folder of the run")
        path = Path(run, "checkpoints", "last.ckpt")
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path} to go on from: check --run, or drop --ckpt_path")
        return path
    if ckpt_path in ("best", "hpc", "registry"):
        raise ValueError(f"--ckpt_path {ckpt_path} is not kept here: give 'last' with --run DIR, or a file")
    if not Path(ckpt_path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {ckpt_path}")
    return Path(ckpt_path)


def saved_method(checkpoint: Path) -> Saved:
    """
    Raises:
        ValueError: the file is no checkpoint, or was not written by ssl_lightning.
    """
    saved = read_checkpoint(checkpoint)["ssl_lightning"]
    return Saved(saved["class_path"], saved["init_args"], saved.get("tokenizer"))


def folder_of(checkpoint: Path | None) -> Path | None:
    """The run that a checkpoint lies in: DIR of DIR/checkpoints/last.ckpt."""
    return checkpoint.parent.parent if checkpoint and checkpoint.parent.name == "checkpoints" else None


def latest_config(folder: Path | None) -> Path | None:
    """What the run in a folder was last started with."""
    if folder is None or not (folder / "config.yaml").is_file():
        return None
    resumed = sorted(folder.glob("config_resume_*.yaml"), key=lambda path: int(path.stem.split("_")[-1]))
    return resumed[-1] if resumed else folder / "config.yaml"


def new_folder(model: str, data: str) -> Path:
    """runs/<model>-<data>-<time>, equal on all processes of this command.

    Raises:
        ValueError: the processes were started from outside and cannot agree on the time.
    """
    if "LOCAL_RANK" in os.environ and (decided := os.environ.get("SSL_LIGHTNING_RUN")):
        return Path(decided)  # by the process that started this one
    job = os.environ.get("SLURM_JOB_ID")
    if job is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("give --run DIR: the processes have to agree on the folder")
    stamp = f"job{job}" if job else time.strftime("%Y%m%d-%H%M%S")
    folder = Path("runs", f"{model}-{data}-{stamp}".lower())
    os.environ["SSL_LIGHTNING_RUN"] = str(folder)
    return folder


def refuse_used(folder: Path, checkpoint: Path | None) -> None:
    """
    Raises:
        FileExistsError: the folder holds a run, and the checkpoint is not of it.
    """
    goes_on = checkpoint is not None and checkpoint.resolve().is_relative_to(folder.resolve())
    last = Path(folder, "checkpoints", "last.ckpt")  # a run that ended before it had one starts again
    first = getattr(rank_zero_only, "rank", 0) == 0  # the others come when it has begun
    if last.exists() and not goes_on and first:
        raise FileExistsError(f"{folder} holds a run: choose another --run, or go on with --ckpt_path last")


class MetricsFile(Logger):
    """Appends every logged metric to metrics.jsonl: one JSON object a line, with ``step`` and ``epoch``.

    Numbers that are not finite become null. Steps run again after a resume come again: the later line counts.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = Path(folder, "metrics.jsonl")
        self.whole = False  # whether the file is known to end in a whole line

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {"step": step, "epoch": None}
        for name, value in metrics.items():
            row[name] = value if math.isfinite(value) else None
        if row["epoch"] is not None:
            row["epoch"] = int(row["epoch"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if not self.whole and file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")  # a killed process left half a line
            self.whole = True
            file.write(json.dumps(row).encode() + b"\n")


def parameters(module: nn.Module) -> str:
    """Such as ``11.2 M``."""
    count = sum(p.numel() for p in module.parameters())
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def shown(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics under the names that the progress bar shows: ``loss``, ``knn_top1``."""
    numbers = {name: float(v) for name, v in metrics.items() if isinstance(v, int | float | Tensor)}
    return {name.split("/")[-1]: value for name, value in numbers.items() if name != "v_num"}


class Progress(TQDMProgressBar):
    """A bar for every epoch, with the loss and the scores; plain lines where the output is not a terminal."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10, leave=True)  # each refresh waits for the device
        self.began = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {name: f"{value:.3f}" for name, value in shown(trainer.progress_bar_metrics).items()}

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        self.train_progress_bar = Tqdm(disable=True)  # each epoch makes its own
        if trainer.fit_loop.restarted_mid_epoch:  # whose start Lightning does not announce again
            self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(self.title(trainer))
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self.is_disabled and trainer.is_global_zero:
            words = [f"{name} {value}" for name, value in self.get_metrics(trainer, pl_module).items()]
            words = [self.title(trainer), f"step {trainer.global_step}", *words]
            print("  ".join([*words, f"{time.monotonic() - self.began:.1f} s"]), flush=True)

    def title(self, trainer: Trainer) -> str:
        last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        return f"Epoch {trainer.current_epoch + 1}/{last}"


class RunFolder(Callback):
    """Writes the configuration of a fit into its folder, and knows whether the first batch has been reached.

    Args:
        config: YAML text.
        resumed: Whether the run goes on: the text then goes to config_resume_N.yaml.
    """

    def __init__(self, config: str, resumed: bool) -> None:
        self.config, self.resumed = config, resumed
        self.began = self.training = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader: Any = trainer.train_dataloader
        network = pl_module.hparams.get("backbone") or pl_module.hparams.get("size")
        named = f"{network}, " if network else ""
        print(
            f"{type(pl_module).__name__}: {named}{parameters(pl_module)} parameters\n"
            f"{type(data).__name__}: {loader.sampler.n:,} {data.unit} of {data.shape}, {len(loader)} batches "
            f"of {data.batch_size} an epoch on each of {trainer.world_size} process(es)\n"
            f"run folder: {trainer.default_root_dir}",
            flush=True,
        )

    def write(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        earlier = len(list(folder.glob("config*.yaml")))
        path = folder / (f"config_resume_{earlier}.yaml" if self.resumed and earlier else "config.yaml")
        with atomic_open(path) as file:
            file.write(self.config.encode())

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if not self.training:  # and nothing was found wrong: a refused run leaves no configuration
            self.write(trainer)
        self.began = self.training = True

    def on_validation_batch_start(self, *args: Any) -> None:
        self.began = True

    def on_test_batch_start(self, *args: Any) -> None:
        self.began = True

    def on_predict_batch_start(self, *args: Any) -> None:
        self.began = True
