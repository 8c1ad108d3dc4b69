"""What a run needs to go on exactly where it was: last.ckpt, and in it what Lightning leaves out."""

import os
import random
import shutil
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import distributed as dist


def last_checkpoint(trainer: Trainer) -> Path:
    """``checkpoints/last.ckpt`` in the folder of the run."""
    return Path(trainer.default_root_dir, "checkpoints", "last.ckpt")


def save_last(trainer: Trainer) -> None:
    """Write last.ckpt whole or not at all: into a file beside it, which then takes its place. Call it on all ranks.

    Raises:
        OSError: the file cannot be written. The earlier checkpoint stays.
    """
    last = last_checkpoint(trainer)
    new = last.with_name(".last.ckpt.new")
    trouble = None
    try:
        trainer.save_checkpoint(new)
    except OSError as error:
        trouble = error
        trainer.strategy.barrier("Trainer.save_checkpoint")  # at which the others are
    # all together, else one process leaves and the others wait for it
    if trainer.strategy.reduce_boolean_decision(trouble is None, all=True):
        if trainer.is_global_zero:
            with new.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(new, last)
        return
    new.unlink(missing_ok=True)
    folder = next(parent for parent in last.absolute().parents if parent.is_dir())
    reason = (trouble and (trouble.strerror or trouble)) or "another process says why"
    raise OSError(
        f"cannot write {last}: {reason} ({shutil.disk_usage(folder).free / 2**20:.0f} MiB free there); "
        f"{describe(last)}. Make room, in the folder of temporary files too, and go on with --ckpt_path last"
    ) from trouble


def describe(last: Path) -> str:
    """Words for what there is to go back to."""
    return f"the last good checkpoint is {last}" if last.exists() else "there is no earlier checkpoint"


class RunCheckpoint(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` every ``every_n_steps`` optimizer steps and after every epoch.

    Args:
        every_n_steps: 0: after every epoch only.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        self.every_n_steps = every_n_steps
        self.saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        # The last batch of an epoch waits for the epoch's validation: a run resumed in between would skip it.
        due = self.every_n_steps and step % self.every_n_steps == 0 and step != self.saved_step
        if due and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.saved_step = step
            save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step
        save_last(trainer)


def complete_epoch(fit_loop: dict[str, Any]) -> None:
    """In a checkpoint taken at the end of an epoch, count the epoch as complete.

    Lightning saves it as nearly so, and on resuming under ``max_steps`` goes on inside of it.
    """
    total, current = (fit_loop["epoch_progress"][key] for key in ("total", "current"))
    if total["ready"] == total["processed"] == total["completed"] + 1:
        total["completed"] += 1
        current["completed"] = current["processed"]
        batches = fit_loop["epoch_loop.batch_progress"]
        batches["is_last_batch"] = False
        batches["current"] = dict.fromkeys(batches["current"], 0)


@runtime_checkable
class Resumable(Protocol):
    """A loader that knows its place in the epoch."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class ExactResume(Callback):
    """Keeps in the checkpoint what Lightning leaves out: the state of the random generators of every process (torch,
    CUDA, NumPy, Python), and the place in the epoch, which Lightning saves but does not restore where the length of
    the run was asked for before (as every schedule does)."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        version, keys, *rest = np.random.get_state(legacy=True)
        mine = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "numpy": [version, np.asarray(keys).tolist(), *rest],
            "python": random.getstate(),
        }
        ranks: list[dict[str, Any]] = [{} for _ in range(trainer.world_size)]
        if trainer.world_size > 1:
            dist.all_gather_object(ranks, mine)
        else:
            ranks = [mine]
        loader = trainer.train_dataloader
        place = loader.state_dict() if isinstance(loader, Resumable) else None
        checkpoint["exact_resume"] = {"generators": ranks, "loader": place}
        complete_epoch(checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint.get("exact_resume", {})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.loaded:
            return
        ranks, place, self.loaded = self.loaded["generators"], self.loaded["loader"], {}
        loader = trainer.train_dataloader
        if place is not None and isinstance(loader, Resumable):
            loader.load_state_dict(place)
        if len(ranks) != trainer.world_size:
            rank_zero_warn(
                f"the checkpoint is of {len(ranks)} processes, this run has {trainer.world_size}: "
                "the random generators start afresh, so dropout will differ from an uninterrupted run"
            )
            return
        state = ranks[trainer.global_rank]
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"].cpu())
        version, keys, *rest = state["numpy"]
        np.random.set_state((version, np.array(keys, dtype=np.uint32), *rest))
        random.setstate(state["python"])
