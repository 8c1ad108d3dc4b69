"""Leaving in good order when the cluster asks for the machine."""

import os
import signal
import subprocess
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, distributed

from callbacks.checkpoint import last_checkpoint, save_last

PRIORITY = (0, signal.SIGTERM, signal.SIGUSR1)  # no signal, and which of two counts: the later one


class Agreement:
    """Tells every process the highest number that any of them gave, one call later.

    The answer has come by then, so that the host never waits for what the device has yet to do.

    Args:
        device: That of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.answer: Tensor | None = None  # () int32 on the CPU
        self.arrived: torch.cuda.Event | None = None

    def exchange(self, number: int) -> int:
        """Give a number, 0 or more; returns the highest one of the call before, 0 at first."""
        if self.arrived is not None:
            self.arrived.synchronize()
        highest = 0 if self.answer is None else int(self.answer)
        given = torch.full((), number, dtype=torch.int32, device=self.device)
        distributed.all_reduce(given, distributed.ReduceOp.MAX)
        if self.device.type == "cuda":
            self.answer = torch.empty((), dtype=torch.int32, pin_memory=True).copy_(given, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()
        else:
            self.answer = given
        return highest


class Preemption(Callback):
    """On SIGTERM or SIGUSR1 finishes the step, writes last.ckpt and ends with the exit status 128 + signal.

    Several processes agree on the signal, save and leave together, one step later. On SIGUSR1 inside a SLURM job
    the first process runs ``scontrol requeue``. Steps that only accumulate gradients are finished first; after the
    last batch of an epoch its validation is, so that a resumed run misses nothing.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.step = 0
        self.handlers: dict[int, Any] = {}
        self.agreement: Agreement | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # in place of Lightning's, which saves in the middle of a step
        self.handlers = {n: signal.signal(n, self.receive) for n in (signal.SIGTERM, signal.SIGUSR1)}
        self.step = trainer.global_step
        if trainer.world_size > 1:
            self.agreement = Agreement(trainer.strategy.root_device)
            # which would ask after every step whether its handler was called, and wait for the device
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        stepped, self.step = trainer.global_step != self.step, trainer.global_step
        if stepped and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.leave_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.agreement:
            self.agreement.exchange(PRIORITY.index(self.signal))  # asked in the last step, answered now
        self.leave_if_asked(trainer)

    def leave_if_asked(self, trainer: Trainer) -> None:
        """Save and leave if any process was signalled.

        Raises:
            SystemExit: with 143 (SIGTERM) or 138 (SIGUSR1).
        """
        place = PRIORITY.index(self.signal)
        number = PRIORITY[self.agreement.exchange(place) if self.agreement else place]
        if not number:
            return
        save_last(trainer)
        name = signal.Signals(number).name
        rank_zero_info(f"{name}: saved {last_checkpoint(trainer)} at step {trainer.global_step}, leaving")
        if number == signal.SIGUSR1 and trainer.is_global_zero:
            requeue()
        raise SystemExit(128 + number)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not in teardown, which comes after Lightning has put back what was there before the fit
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers, self.agreement = {}, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)


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
