"""What the framework costs: ratios measured side by side in one run.

    python benchmarks/speed.py                     print the table and write results/speed.json

Step: a step of SimCLR with a ResNet-18 on 32-px pictures through a Trainer with the callbacks that keep a run, against
a bare PyTorch loop over the same loader, views, model and optimizer. Blocks of the two alternate; the medians of their
steps are compared. Wait: the share of a run's time in which the loop waits for the loader, whose one worker decodes
JPEG files of CIFAR-10's size. Start: `--help`, and `fit --help` against the import of lightning.pytorch.cli.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.profilers import SimpleProfiler
from PIL import Image

from callbacks import ExactResume, FiniteLoss, Preemption, RunCheckpoint
from datamodules import Digits, ImageFolder, SimCLRViews
from datamodules.images import ImageData
from ssl_lightning.methods import SimCLR

RESULTS = Path(__file__).parent / "results" / "speed.json"
LIMITS = {"step": 1.05, "wait": 0.05, "--help": 0.5, "fit --help": 1.5}


class Clock(L.Callback):
    """Seconds between the ends of successive batches."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.ends.append(time.perf_counter())

    def steps(self) -> list[float]:
        return np.diff(self.ends).tolist()


def model() -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(backbone="resnet18", image_size=32, optimizer="SGD", lr=0.06, warmup_epochs=0)


def fit(data: ImageData, folder: str, steps: int, profiler: SimpleProfiler | None = None) -> list[float]:
    """The seconds of each step through the Trainer, with the callbacks that a run has."""
    clock = Clock()
    trainer = L.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        profiler=profiler,
        callbacks=[ExactResume(), RunCheckpoint(), Preemption(), FiniteLoss(), clock],
    )
    trainer.fit(model(), data)
    return clock.steps()


def bare(data: ImageData, steps: int) -> list[float]:
    """The same without Lightning."""
    net, views = model(), SimCLRViews()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.06, momentum=0.9, weight_decay=1e-6)
    data.setup("predict")
    ends: list[float] = []
    batches = iter(data.train_dataloader())
    for _ in range(steps):
        batch = next(batches)
        batch = batch._replace(views=views(batch.image, batch.index, 32, 0, 0))
        optimizer.zero_grad()
        net.training_step(batch, 0).backward()
        optimizer.step()
        ends.append(time.perf_counter())
    return np.diff(ends).tolist()


def step_ratio(batch: int, steps: int, rounds: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {"fit": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            times["bare"] += bare(Digits(batch_size=batch), steps)[1:]
            times["fit"] += fit(Digits(batch_size=batch), folder, steps)[1:]
    median = {name: statistics.median(values) for name, values in times.items()}
    spread = {name: [round(v, 4) for v in np.quantile(values, [0.25, 0.75])] for name, values in times.items()}
    return {"value": median["fit"] / median["bare"], "seconds": median, "quartiles": spread}


def wait_share(batch: int, steps: int) -> dict[str, Any]:
    noise = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(batch * steps):
            buffer = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
            Path(folder, f"{i:05d}.jpg").write_bytes(buffer.getvalue())
        profiler = SimpleProfiler()
        data = ImageFolder(folder, image_size=32, batch_size=batch, num_workers=1)
        times = fit(data, folder, steps, profiler)
        waits = next(v for k, v in profiler.recorded_durations.items() if "train_dataloader_next" in k)
        total = sum(times)
    return {"value": sum(waits[1:]) / total, "seconds": {"waiting": sum(waits[1:]), "all": total}}


def seconds(*command: str, repeats: int = 5) -> float:
    def once() -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    once()
    return statistics.median(once() for _ in range(repeats))


def start_up() -> dict[str, dict[str, Any]]:
    ours = (sys.executable, "-m", "ssl_lightning")
    top = seconds(*ours, "--help")
    whole, imports = seconds(*ours, "fit", "--help"), seconds(sys.executable, "-c", "import lightning.pytorch.cli")
    return {
        "--help": {"value": top},
        "fit --help": {"value": whole / imports, "seconds": {"fit --help": whole, "import": imports}},
    }


def table(saved: dict[str, Any]) -> str:
    """The figures beside their limits, in Markdown."""
    words = {
        "step": "step through `Trainer.fit` / bare loop, SimCLR with ResNet-18 at 32 px",
        "wait": "share of time waiting for data, 1 worker that decodes JPEG",
        "--help": "`ssl-lightning --help`, seconds",
        "fit --help": "`ssl-lightning fit --help` / `import lightning.pytorch.cli`",
    }
    rows = ["| figure | measured | limit |", "|---|---|---|"]
    rows += [f"| {words[n]} | {saved['results'][n]['value']:.3f} | {limit:g} |" for n, limit in LIMITS.items()]
    machine = saved["machine"]
    rows += [
        "",
        f"{machine['cores']} cores, batch {machine['batch']}, torch {machine['torch']}, Python {machine['python']}.",
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="of a block")
    parser.add_argument("--rounds", type=int, default=4, help="blocks of each kind")
    args = parser.parse_args()
    measured: dict[str, Callable[[], dict[str, Any]]] = {
        "step": lambda: step_ratio(args.batch, args.steps, args.rounds),
        "wait": lambda: wait_share(args.batch, 2 * args.steps),
    }
    results = {name: measure() for name, measure in measured.items()} | start_up()
    machine = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
        "batch": args.batch,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    saved = {"results": results, "machine": machine}
    RESULTS.write_text(json.dumps(saved, indent=1) + "\n")
    print(table(saved))


if __name__ == "__main__":
    main()
