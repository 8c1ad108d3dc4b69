"""What training costs: ratios measured side by side in one run.

    python benchmarks/speed.py                         measure what results/speed.json lacks on this device
    python benchmarks/speed.py --only start wait       some sections: start, wait, steps, operations
    python benchmarks/speed.py --peer DIR              also stable-pretraining, installed into the environment DIR
    python benchmarks/speed.py --table                 the tables of the README

Steps, for networks and sizes of pictures, float32 and bfloat16, eager and compiled: `limit`, the step of SimCLR on
views that lie on the device; `bare`, a plain loop with our loader and views; `fit`, the same through `Trainer.fit` with
the callbacks that keep a run; `lightly`, its transforms in a DataLoader's workers, its head and loss in a plain loop;
`peer`, stable-pretraining's transforms in workers (cpu) or kornia's on the device (device), with its SimCLR in a plain
loop. All train the same network on the same pictures. Blocks of steps take turns; a block's figure is its mean step
between two synchronisations, and the table shows medians over blocks with their range. Memory is the peak of the block:
of the device's allocator, or on a CPU of the process.

Operations: each alone on one thread of the CPU, or on the GPU: ours on a batch, torchvision image by image, kornia on a
batch. Wait: the share of a run in which the loop waits for a loader whose one worker decodes JPEG files of CIFAR-10's
size. Start: `--help`, and `fit --help` against the import of lightning.pytorch.cli.
"""

import argparse
import importlib.util
import io
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightly
import lightning.pytorch as L
import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightning.pytorch.profilers import SimpleProfiler
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from callbacks import Compile, ExactResume, FiniteLoss, Preemption, RunCheckpoint
from callbacks.results import atomic_open
from datamodules import ImageFolder, SimCLRViews, augment
from datamodules.draws import uniform
from datamodules.images import ImageData, Splits
from datamodules.rand_augment import RandAugment
from datamodules.sets import ImageArray
from ssl_lightning import __version__
from ssl_lightning.methods import SimCLR

RESULTS = Path(__file__).parent / "results" / "speed.json"
LIMITS = {"fit / limit": 1.10, "fit / bare": 1.05, "wait": 0.05, "--help": 0.5, "fit --help": 1.5}  # at most
LEAST = {("lightly", "32"): 3, ("lightly", "224"): 1}  # the ratios that are to be at least so much
WORDS = {
    "limit": "on ready views",
    "bare": "a bare loop",
    "fit": "`Trainer.fit`",
    "lightly": "lightly",
    "peer cpu": "stable-pretraining",
    "peer device": "stable-pretraining, kornia",
}
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
# network, side of the views, side of the stored pictures, batch and steps of a block: on a GPU, on a CPU
NETWORKS: list[tuple[str, int, int, tuple[int, int], tuple[int, int]]] = [
    ("resnet18", 32, 32, (512, 40), (64, 5)),
    ("resnet50", 224, 256, (128, 20), (8, 3)),
    ("vit_small_patch16_224", 224, 256, (128, 20), (8, 3)),
]
ROUNDS = 5


def synchronize() -> float:
    """The time when the device has done what was asked of it."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def forget_peak() -> None:
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    if CUDA:
        return torch.cuda.max_memory_allocated() / 1e6
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


# ---- steps


class Noise(ImageData):
    """Pictures of random pixels.

    Args:
        n: How many.
        side: Their side in pixels.
    """

    def __init__(self, n: int, side: int, **kwargs: Any) -> None:
        super().__init__(in_channels=3, class_names=[], **kwargs)
        pixels = np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8)
        self.array = ImageArray(pixels, np.full(n, -1))

    def splits(self) -> Splits:
        return Splits(self.array, None, None, None, self.array)


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """The same pictures one by one, as Pillow's, through a transform."""

    def __init__(self, data: Noise, transform: Callable[[Image.Image], Any]) -> None:
        self.pictures = [Image.fromarray(x.transpose(1, 2, 0)) for x in data.array.images]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        v0, v1 = self.transform(self.pictures[i])
        return v0, v1


class Clock(L.Callback):
    """Seconds a step from the end of the first to the end of the last."""

    def __init__(self, steps: int) -> None:
        self.steps, self.began, self.ended = steps, 0.0, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == 1:
            self.began = synchronize()
        if trainer.global_step == self.steps + 1:
            self.ended = synchronize()

    def seconds(self) -> float:
        return (self.ended - self.began) / self.steps


def plain_loop(batches: Iterator[Any], step: Callable[[Any], Tensor], net: nn.Module, steps: int, bf16: bool) -> float:
    """Seconds a step of a loop without Lightning."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    began = 0.0
    for i in range(steps + 1):
        batch = next(batches)
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = step(batch)
        loss.backward()
        optimizer.step()
        if i == 0:
            began = synchronize()
    return (synchronize() - began) / steps


class Steps:
    """The variants of one case; each is a method that gives the seconds a step of one block."""

    def __init__(self, name: str, size: int, side: int, batch: int, steps: int, bf16: bool, compiled: bool) -> None:
        self.size, self.steps, self.bf16, self.compiled = size, steps, bf16, compiled
        self.data = Noise((steps + 1) * batch, side, image_size=size, batch_size=batch)
        self.data.setup("predict")
        self.name, self.batch = name, batch
        self.model = self.method()
        if compiled:
            for child in self.model.children():
                child.compile()

    def method(self) -> SimCLR:
        torch.manual_seed(0)
        args: dict[str, Any] = {
            "optimizer": "SGD",
            "lr": 0.01,
            "lr_rule": "none",
            "weight_decay": 0,
            "warmup_epochs": 0,
        }
        return SimCLR(backbone=self.name, image_size=self.size, **args).to(DEVICE)

    def limit(self) -> float:
        image = torch.from_numpy(self.data.array.images[: self.batch]).to(DEVICE)
        index = torch.arange(self.batch)
        views = SimCLRViews()(image, index, self.size, 0, 0)
        fixed = self.data.array[index.tolist()]._replace(views=views)
        step = partial(self.model.training_step, batch_idx=0)
        return plain_loop(itertools.repeat(fixed), step, self.model, self.steps, self.bf16)

    def bare(self) -> float:
        views = SimCLRViews()

        def step(batch: Any) -> Tensor:
            with torch.autocast(DEVICE.type, enabled=False):
                image = batch.image.to(DEVICE, non_blocking=True)
                made = views(image, batch.index, self.size, 0, 0)
            return self.model.training_step(batch._replace(views=made), 0)

        return plain_loop(iter(self.data.train_dataloader()), step, self.model, self.steps, self.bf16)

    def fit(self) -> float:
        clock = Clock(self.steps)
        keepers = [ExactResume(), RunCheckpoint(), Preemption(), FiniteLoss()]
        with tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(
                default_root_dir=folder,
                max_steps=self.steps + 1,
                accelerator="gpu" if CUDA else "cpu",
                devices=1,
                precision="bf16-mixed" if self.bf16 else "32-true",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                limit_val_batches=0,
                callbacks=[*keepers, clock, *([Compile()] if self.compiled else [])],
            )
            trainer.fit(self.model, self.data)
        self.model.to(DEVICE)
        return clock.seconds()

    def lightly(self) -> float:
        torch.manual_seed(0)
        backbone = self.method().backbone
        net = nn.Sequential(backbone, SimCLRProjectionHead(backbone.dim, backbone.dim, 128)).to(DEVICE)
        criterion = NTXentLoss(temperature=0.1)
        small = self.size < 64
        transform = SimCLRTransform(
            input_size=self.size, cj_strength=0.5 if small else 1.0, gaussian_blur=0.0 if small else 0.5
        )
        loader = DataLoader(
            Pictures(self.data, transform), self.batch, num_workers=os.cpu_count() or 1, pin_memory=CUDA, shuffle=True
        )

        def step(views: list[Tensor]) -> Tensor:
            z0, z1 = (net(v.to(DEVICE, non_blocking=True)) for v in views)
            return criterion(z0, z1)

        return plain_loop(iter(loader), step, net, self.steps, self.bf16)


def measure_steps(
    case: tuple[Any, ...], bf16: bool, compiled: bool, peer: str | None, args: argparse.Namespace
) -> dict[str, Any]:
    name, size, side, gpu, cpu = case
    batch, steps = gpu if CUDA else cpu
    batch, steps = args.batch or batch, args.steps or steps
    runs = Steps(name, size, side, batch, steps, bf16, compiled)
    variants: dict[str, Callable[[], float]] = {"limit": runs.limit, "fit": runs.fit, "bare": runs.bare}
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    peers: list[Peer] = []
    if not compiled:
        variants["lightly"] = runs.lightly
        if peer:
            peers = [Peer(peer, kind, name, size, side, batch, steps, bf16) for kind in ("cpu", "device")]
    for _ in range(args.rounds):
        for variant, block in variants.items():
            forget_peak()
            seconds.setdefault(variant, []).append(block())
            memory[variant] = max(memory.get(variant, 0), peak_megabytes())
        for other in peers:
            if (answer := other.block()) is not None:
                seconds.setdefault(f"peer {other.kind}", []).append(answer["seconds"])
                memory[f"peer {other.kind}"] = answer["megabytes"]
    for other in peers:
        other.close()
    return {
        "batch": batch,
        "seconds": {k: [statistics.median(v), min(v), max(v)] for k, v in seconds.items()},
        "megabytes": {k: round(v) for k, v in memory.items()},
    }


class Peer:
    """stable-pretraining in its own environment: a process that runs a block when it is told to."""

    def __init__(self, python: str, kind: str, *case: Any) -> None:
        self.kind = kind
        command = [python, str(Path(__file__).with_name("speed_peer.py")), kind, *map(str, case)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def block(self) -> dict[str, float] | None:
        """Its seconds a step and peak memory; None where it does not run."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print("go", file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        print(f"stable-pretraining ({self.kind}) does not run here", file=sys.stderr)
        return None

    def close(self) -> None:
        self.process.communicate()


def peer_python(folder: Path) -> str | None:
    """The interpreter of an environment with stable-pretraining, installed if need be; None where that fails."""
    python = folder / "bin" / "python"
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "stable-pretraining"],
    ]
    try:
        for command in commands if not python.exists() else []:
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"stable-pretraining cannot be installed into {folder}, it is left out: {error}", file=sys.stderr)
        return None
    return str(python)


# ---- operations


def operations(size: int, side: int) -> dict[str, tuple[Callable[[], Any], ...]]:
    """By operation: ours on a batch, torchvision image by image, kornia on a batch (if installed)."""
    n = (512 if size < 64 else 128) if CUDA else (128 if size < 64 else 16)
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator).to(DEVICE)
    x = torch.rand(n, 3, size, size, generator=generator).to(DEVICE)
    index = torch.arange(n)
    u = uniform(index, 36, 0)
    factor = 0.5 + u[:, 0]
    order = u[:, :4].argsort(1)
    factors = torch.stack([factor, factor, factor, 0.4 * u[:, 4] - 0.2], 1)
    box = augment.random_boxes(u[:, :22], side, side, (0.08, 1.0), (3 / 4, 4 / 3))
    flip, every = u[:, 0] < 0.5, torch.ones(n, dtype=torch.bool)
    sigma, kernel = 0.1 + 1.9 * u[:, 0], 2 * (int(0.1 * size) // 2) + 1
    blurred = size >= 64
    strength = 1.0 if blurred else 0.5
    jitter = [0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength]
    views = SimCLRViews()

    def each(operation: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Any]:
        return lambda: [operation(image) for image in images]

    whole = [
        v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*jitter)], 0.8),
        v2.RandomGrayscale(0.2),
        *([v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], 0.5)] if blurred else []),
    ]
    table: dict[str, tuple[Callable[[], Any], ...]] = {
        "crop, bicubic": (
            lambda: augment.resized_crop(source.float() / 255, box, flip, size, "bicubic"),
            each(v2.Compose([v2.ToDtype(torch.float32, scale=True), *whole[:2]]), source),
        ),
        "colour jitter": (
            lambda: augment.color_jitter(x, every, factors, order),
            each(v2.ColorJitter(*jitter), x),
        ),
        "grey": (lambda: augment.greyscale(x), each(v2.Grayscale(3), x)),
        "solarize": (lambda: augment.solarize(x), each(v2.RandomSolarize(0.5, 1.0), x)),
        "a view of SimCLR": (
            lambda: views.at(size)[0](source, u, size),
            each(v2.Compose([v2.ToDtype(torch.float32, scale=True), *whole]), source),
        ),
    }
    if blurred:
        table["blur"] = (
            lambda: augment.gaussian_blur(x, sigma, kernel),
            each(v2.GaussianBlur(kernel, (0.1, 2.0)), x),
        )
    if importlib.util.find_spec("kornia"):
        table = {name: (*row, *of_kornia(name, source, x, size, kernel, jitter)) for name, row in table.items()}
    policy, pixels = RandAugment(), (255 * x).to(torch.uint8)  # which is what torchvision's is for
    table["RandAugment"] = (lambda: policy(x.clone(), u[:, : policy.draws]), each(v2.RandAugment(), pixels))
    pictures = [Image.fromarray(image) for image in source.permute(0, 2, 3, 1).cpu().numpy()]
    transform = SimCLRTransform(input_size=size, cj_strength=strength, gaussian_blur=0.5 if blurred else 0.0)
    table["lightly"] = (lambda: [transform.transforms[0](picture) for picture in pictures],)
    return {f"{name} @ {n}": row for name, row in table.items()}


def of_kornia(
    name: str, source: Tensor, x: Tensor, size: int, kernel: int, jitter: list[float]
) -> list[Callable[[], Any]]:
    with warnings.catch_warnings(action="ignore"):
        import kornia.augmentation as K  # noqa: PLC0415

    crop = [K.RandomResizedCrop((size, size), resample="bicubic"), K.RandomHorizontalFlip()]
    color, blur = K.ColorJitter(*jitter, p=0.8), K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5)
    whole = [*crop, color, K.RandomGrayscale(p=0.2), *([blur] if size >= 64 else [])]
    chains: dict[str, tuple[list[nn.Module], Tensor]] = {
        "crop, bicubic": (crop, source),
        "colour jitter": ([K.ColorJitter(*jitter, p=1.0)], x),
        "grey": ([K.RandomGrayscale(p=1.0)], x),
        "solarize": ([K.RandomSolarize(0.5, 0.0, p=1.0)], x),
        "blur": ([K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=1.0)], x),
        "a view of SimCLR": (whole, source),
    }
    modules, images = chains[name]
    chain = nn.Sequential(*modules).to(DEVICE)
    return [lambda: chain(images.float() / 255 if images.dtype == torch.uint8 else images)]


def measure_operations(size: int, side: int, rounds: int) -> dict[str, Any]:
    """Microseconds an image: [median, least, most] by operation for ours, torchvision, kornia."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with torch.no_grad():
        for key, row in operations(size, side).items():
            name, n = key.split(" @ ")
            times: list[list[float]] = [[] for _ in row]
            for _ in range(rounds + 1):
                for operation, seconds in zip(row, times, strict=True):
                    synchronize()
                    start = time.perf_counter() if CUDA else time.thread_time()
                    operation()
                    synchronize()
                    seconds.append((time.perf_counter() if CUDA else time.thread_time()) - start)
            micro = [[1e6 * t / int(n) for t in seconds[1:]] for seconds in times]
            whose = ("lightly",) if name == "lightly" else ("ours", "torchvision", "kornia")
            numbers = [[round(f(t), 1) for f in (statistics.median, min, max)] for t in micro]
            found[name] = dict(zip(whose, numbers, strict=False))
    torch.set_num_threads(threads)
    found["a view of SimCLR"] |= found.pop("lightly")
    return found


# ---- waiting for data, and the start


def measure_wait(batch: int = 64, steps: int = 16) -> dict[str, Any]:
    noise = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(batch * steps):
            buffer = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
            Path(folder, f"{i:05d}.jpg").write_bytes(buffer.getvalue())
        profiler = SimpleProfiler()
        data = ImageFolder(folder, image_size=32, batch_size=batch, num_workers=1)
        trainer = L.Trainer(
            default_root_dir=folder,
            max_steps=steps,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            profiler=profiler,
        )
        trainer.fit(SimCLR(image_size=32, optimizer="SGD", lr=0.06, warmup_epochs=0), data)
    taken = profiler.recorded_durations
    waits = next(v for k, v in taken.items() if "train_dataloader_next" in k)[1:]
    total = sum(waits) + sum(taken["run_training_batch"][1:])
    return {"value": sum(waits) / total, "seconds": {"waiting": sum(waits), "all": total}}


def seconds(*command: str, repeats: int = 5) -> float:
    def once() -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    once()
    return statistics.median(once() for _ in range(repeats))


def measure_start() -> dict[str, Any]:
    ours = (sys.executable, "-m", "ssl_lightning")
    top = seconds(*ours, "--help")
    whole, imports = seconds(*ours, "fit", "--help"), seconds(sys.executable, "-c", "import lightning.pytorch.cli")
    return {
        "--help": {"value": top},
        "fit --help": {"value": whole / imports, "seconds": {"fit --help": whole, "import": imports}},
    }


# ---- all of it


def machine() -> dict[str, Any]:
    name = torch.cuda.get_device_name() if CUDA else platform.processor() or platform.machine()
    return {
        "device": f"{DEVICE.type}: {name}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
        "lightly": lightly.__version__,
        "ssl_lightning": __version__,
    }


def about(device: str, results: dict[str, Any]) -> str:
    there = results["machine"]
    return f"{device}, {there['cores']} cores, torch {there['torch']}, Python {there['python']}"


def table(saved: dict[str, Any]) -> str:
    """The ratios in Markdown, for the README."""
    lines: list[str] = []
    for device, results in saved.items():
        rows = []
        for case, result in results.get("steps", {}).items():
            seconds = {name: numbers[0] for name, numbers in result["seconds"].items()}
            for other in ("limit", "bare", "lightly", "peer cpu", "peer device"):
                if other in seconds:
                    ratio, limit = seconds["fit"] / seconds[other], LIMITS.get(f"fit / {other}", "")
                    rows.append(f"| step by `Trainer.fit` / {WORDS[other]}, {case} | {ratio:.2f} | {limit} |")
        for size, result in results.get("operations", {}).items():
            view = result["a view of SimCLR"]
            for who in ("torchvision", "kornia", "lightly"):
                if who in view:
                    limit = LEAST.get((who, size), "")
                    rows.append(
                        f"| views a second / {who}'s, {size} px | {view[who][0] / view['ours'][0]:.1f} | {limit} |"
                    )
        rows += other_rows(results)
        lines += [f"{about(device, results)}:", "", "| figure | measured | limit |", "|---|---|---|", *rows, ""]
    return "\n".join(lines).rstrip()


def details(saved: dict[str, Any]) -> str:
    """Seconds, memory and operations in Markdown, for docs/speed.md."""
    lines: list[str] = []
    for device, results in saved.items():
        lines += [f"{about(device, results)}:", "", *step_rows(results.get("steps", {}))]
        lines += operation_rows(results.get("operations", {}))
    return "\n".join(lines).rstrip()


def step_rows(steps: dict[str, Any]) -> list[str]:
    if not steps:
        return []
    columns = ["limit", "bare", "fit", "lightly", "peer cpu", "peer device"]
    rows = [
        f"| step, seconds (range), peak MB | {' | '.join(WORDS[c] for c in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for case, result in steps.items():
        cells = []
        for column in columns:
            if column in result["seconds"]:
                median, least, most = result["seconds"][column]
                cells.append(f"{median:.3g} ({least:.3g}-{most:.3g}), {result['megabytes'][column]:,}")
            else:
                cells.append("")
        rows.append(f"| {case}, batch {result['batch']} | {' | '.join(cells)} |")
    return [*rows, ""]


def operation_rows(sizes: dict[str, Any]) -> list[str]:
    if not sizes:
        return []
    whose = ("ours", "torchvision", "kornia", "lightly")
    rows = [f"| microseconds an image (range) | {' | '.join(whose)} |", "|---|---|---|---|---|"]
    for size, result in sizes.items():
        for name, numbers in result.items():
            cells = ["{:,.0f} ({:,.0f}-{:,.0f})".format(*numbers[who]) if who in numbers else "" for who in whose]
            rows.append(f"| {name}, {size} px | {' | '.join(cells)} |")
    return [*rows, ""]


def other_rows(results: dict[str, Any]) -> list[str]:
    words = {
        "wait": "share of time waiting for data, 1 worker that decodes JPEG",
        "--help": "`ssl-lightning --help`, seconds",
        "fit --help": "`ssl-lightning fit --help` / `import lightning.pytorch.cli`",
    }
    found = results.get("start", {}) | ({"wait": results["wait"]} if "wait" in results else {})
    return [f"| {words[n]} | {found[n]['value']:.3f} | {LIMITS[n]:g} |" for n in words if n in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=("start", "wait", "steps", "operations"), help="sections")
    parser.add_argument("--networks", nargs="*", default=[n[0] for n in NETWORKS], help="of the steps")
    parser.add_argument("--peer", type=Path, help="folder of an environment for stable-pretraining")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="blocks of each variant")
    parser.add_argument("--batch", type=int, help="of the steps; by default what suits the device")
    parser.add_argument("--steps", type=int, help="of a block")
    parser.add_argument("--again", action="store_true", help="measure also what is in the file")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    saved: dict[str, Any] = json.loads(args.output.read_text()) if args.output.exists() else {}
    if not args.table:
        measure(args, saved)
    print(table(saved), details(saved), sep="\n\n")


def measure(args: argparse.Namespace, saved: dict[str, Any]) -> None:
    here = machine()
    results = saved.setdefault(here.pop("device"), {})
    results["machine"] = here
    peer = peer_python(args.peer) if args.peer else None

    def do(section: str, key: str | None, work: Callable[[], dict[str, Any]]) -> None:
        if args.only is not None and section not in args.only:
            return
        place = results if key is None else results.setdefault(section, {})
        name = section if key is None else key
        if name in place and not args.again:
            return
        place[name] = work()
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(args.output) as file:
            file.write((json.dumps(saved, indent=1) + "\n").encode())
        print(section, key or "", json.dumps(place[name]), file=sys.stderr, flush=True)

    for size, side in ((32, 32), (224, 256)):
        do("operations", str(size), partial(measure_operations, size, side, args.rounds))
    for compiled, bf16, case in itertools.product((False, True), (False, True), NETWORKS):
        if case[0] in args.networks:
            words = f"{case[0]}, {case[1]} px, {'bfloat16' if bf16 else 'float32'}{', compiled' * compiled}"
            do("steps", words, partial(measure_steps, case, bf16, compiled, peer, args))
    do("wait", None, measure_wait)
    do("start", None, measure_start)


if __name__ == "__main__":
    main()
