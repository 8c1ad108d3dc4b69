"""What a run's time goes into: waiting for data, making views, or the step."""

import time
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.files import cpus
from datamodules.loader import Loader

SKIPPED = 10  # the first steps: workers start, kernels are compiled
MEASURED = 50
LEAST = 20  # of a run that ends before that
SMALL = 5.0  # per cent of the time


class Stopwatch:
    """The moments of a step at which the loader is asked, has answered, the views are made, and the step ends.

    A moment is one of this process on the CPU. On a CUDA device, which works behind this process, it is when the
    device gets there: while it still has work, waiting for images takes none of its time.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.moments: list[Any] = []

    def __enter__(self) -> None:
        self.moments = []
        self.mark()

    def __exit__(self, *error: object) -> None:
        self.mark()

    def mark(self) -> None:
        if self.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.moments.append(event)
        else:
            self.moments.append(time.perf_counter())

    def reached(self) -> bool:
        """Whether the device has got to the last moment; does not wait for it."""
        return self.device == "cpu" or bool(self.moments[-1].query())


def seconds(first: Any, second: Any) -> float:
    """From one moment to another."""
    if isinstance(first, float):
        return second - first
    second.synchronize()
    return first.elapsed_time(second) / 1000


def unit(trainer: Trainer) -> str:
    """What the data are."""
    return getattr(trainer.datamodule, "unit", "images")  # type: ignore[attr-defined]


def way_out(trainer: Trainer, loader: Loader) -> str:
    """What makes the loader faster."""
    ways = []
    if loader.num_workers * trainer.num_devices < cpus():
        ways.append(f"raise --data.num_workers, now {loader.num_workers}, of {cpus()} cores")
    if getattr(trainer.datamodule, "cache", True) is False:  # type: ignore[attr-defined]
        ways.append("decode the images once with --data.cache true")
    return ", or ".join(ways) or f"move the {unit(trainer)} to a faster disk, or give the run more cores"


class DataWait(Callback):
    """Says once in a run what share of the time goes into waiting for the training loader, into the views (with
    their copy to the device) and into the step, and what to do if the loader is too slow.

    After the first steps 50 are measured, those of the first process, without waiting for the device; a run that ends
    sooner is told what there is, and one of less than 20 measured steps nothing. What happens between two steps,
    such as validation, is not counted. On devices that are neither CPU nor CUDA nothing is measured.
    """

    def __init__(self) -> None:
        self.loader: Loader | None = None  # None: nothing to measure, or all is said
        self.watch = Stopwatch("cpu")
        self.to_skip = 0
        self.steps: list[list[Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader, device = trainer.train_dataloader, trainer.strategy.root_device.type
        dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a connector
        self.loader, self.steps = None, []
        if isinstance(loader, Loader) and device in ("cpu", "cuda") and not dry:
            self.loader, self.watch = loader, Stopwatch(device)
            self.to_skip = SKIPPED + 2 * loader.num_workers  # each has two batches ready when the first step is over

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.loader is not None and len(self.watch.moments) == 2:
            self.watch.mark()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.loader is None:
            return
        self.to_skip -= 1
        if self.to_skip == 0:
            self.loader.fetching = self.watch
        if len(self.watch.moments) == 3:
            self.watch.mark()
            self.steps.append(self.watch.moments)
        if len(self.steps) == MEASURED:
            self.loader.fetching = nullcontext()
            if self.watch.reached():
                self.say(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self.steps) >= LEAST:
            self.say(trainer, pl_module)

    def say(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line, and measure no more."""
        assert self.loader is not None
        parts = torch.tensor([[seconds(*pair) for pair in pairwise(moments)] for moments in self.steps])
        waiting, views, step = (100 * parts.sum(0) / parts.sum()).tolist()
        what = unit(trainer)
        made = "making views" if what == "images" else "copying them"
        shares = f"{waiting:.1f} % of the time is waiting for {what}, {views:.1f} % {made}, {step:.1f} % the step"
        if waiting < SMALL:
            line = f"the loader keeps up, the device is the bottleneck: {shares}"
        else:
            line = f"the loader is the bottleneck: {shares}; {way_out(trainer, self.loader)}"
        pl_module.print(f"data: {line}")
        self.loader, self.steps = None, []
