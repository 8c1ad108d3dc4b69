"""Leaving in good order when the cluster asks for the machine."""

import os
import signal
import subprocess
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from callbacks.checkpoint import last_checkpoint, save_last


class Preemption(Callback):
    """On SIGTERM or SIGUSR1 finishes the step, writes last.ckpt and ends with the exit status 128 + signal.

    All processes agree on the signal at the end of a batch, save and leave together. On SIGUSR1 inside a SLURM job
    the first process runs ``scontrol requeue``. Steps that only accumulate gradients are finished first; after the
    last batch of an epoch its validation is, so that a resumed run misses nothing.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.step = 0
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # in place of Lightning's, which saves in the middle of a step
        self.handlers = {n: signal.signal(n, self.receive) for n in (signal.SIGTERM, signal.SIGUSR1)}
        self.step = trainer.global_step

    def receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        stepped, self.step = trainer.global_step != self.step, trainer.global_step
        if stepped and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.leave_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.leave_if_asked(trainer)

    def leave_if_asked(self, trainer: Trainer) -> None:
        """Save and leave if any process was signalled.

        Raises:
            SystemExit: with 143 (SIGTERM) or 138 (SIGUSR1).
        """
        decide = trainer.strategy.reduce_boolean_decision
        if not decide(self.signal != 0, all=False):
            return
        number = signal.SIGUSR1 if decide(self.signal == signal.SIGUSR1, all=False) else signal.SIGTERM
        save_last(trainer)
        rank_zero_info(f"{number.name}: saved {last_checkpoint(trainer)} at step {trainer.global_step}, leaving")
        if number == signal.SIGUSR1 and trainer.is_global_zero:
            requeue()
        raise SystemExit(128 + number)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}


def requeue() -> None:
    """Ask SLURM to start this job again; outside of SLURM do nothing."""
    job = os.environ.get("SLURM_JOB_ID")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        return
    try:
        result = subprocess.run(["scontrol", "requeue", job], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        rank_zero_warn(f"job {job} is not queued again: there is no scontrol on PATH")
        return
    if result.returncode == 0:
        rank_zero_info(f"job {job} is queued again")
    else:
        rank_zero_warn(f"scontrol requeue {job} failed: {result.stderr.strip()}")
