"""The networks at 224 px: time of a step forward and backward, its memory, and what torch.compile makes of it.

    python benchmarks/backbones.py                      measure what results/backbones.json lacks for this device
    python benchmarks/backbones.py --names resnet18     only these
    python benchmarks/backbones.py --compile            with torch.compile
    python benchmarks/backbones.py --table              the table of docs/backbones.md
    python benchmarks/backbones.py --list               fill the rows of backbones/names.py that have zeros

A step is a batch of random images in the channels-last layout, in training mode, and the gradient of the sum of the
features; the median of `--steps` of them after a first, which compiles. The memory is what the process takes beside its
imports, on a GPU what its tensors take. A network that fails is written down with its error: none is left out.
"""

import argparse
import json
import os
import platform
import re
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import Record, read, write

from ssl_lightning.backbones import build, names
from ssl_lightning.backbones.stems import small_stem

RESULTS = Path(__file__).parent / "results" / "backbones.json"
ZOO = [
    *("lenet5", "alexnet", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "googlenet"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet20", "resnet56", "resnet110"),
    *("densenet121", "densenet201", "densenet264", "mobilenetv1_100", "mobilenet_v2", "mobilenet_v3_small"),
    *("mobilenet_v3_large", "seresnet50", "seresnet152", "senet154", "hrnet_w18", "hrnet_w32", "hrnet_w48"),
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"),
    "vit_huge_patch14_224",
]
LISTS = {"ssl_lightning": "OWN", "torchvision": "TORCHVISION", "timm": "TIMM"}


def device_words() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu: {platform.machine()}, {torch.get_num_threads()} threads"


def measure(name: str, batch: int, steps: int, compiled: bool) -> Record:
    """One network, in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    imports = resource.getrusage(0).ru_maxrss
    backbone = build(name, image_size=224).to(device, memory_format=torch.channels_last)
    if compiled:
        backbone.compile()
    x = torch.rand(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    seconds: list[dict[str, float]] = []
    for _ in range(steps + 1):
        marks = [now(device)]
        features = backbone(x)
        marks.append(now(device))
        features.float().sum().backward()
        marks.append(now(device))
        backbone.zero_grad(set_to_none=True)
        seconds.append({"forward": marks[1] - marks[0], "backward": marks[2] - marks[1]})
    if not features.isfinite().all():
        raise FloatingPointError("the features are not finite")
    times = {key: round(statistics.median(s[key] for s in seconds[1:]), 4) for key in seconds[0]}
    times["first"] = round(sum(seconds[0].values()), 2)
    peak = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else 1024 * (resource.getrusage(0).ru_maxrss - imports)
    )
    parameters = sum(p.numel() for p in backbone.parameters())
    return {"parameters": parameters, "features": backbone.dim, **times, "peak_mib": round(peak / 2**20)}


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def table(runs: list[Record]) -> str:
    """For each device its networks, as they are and compiled."""
    lines: list[str] = []
    for device, batch in dict.fromkeys((r["device"], r["batch"]) for r in runs):
        mine = {(r["name"], r["compiled"]): r for r in runs if (r["device"], r["batch"]) == (device, batch)}
        columns = ["network", "parameters", "features", "step, ms", "peak, MiB"]
        columns += ["compiled: step, ms", "peak, MiB", "first step, s"]
        lines += [f"{device}, {batch} images of 224 px, float32; a step is forward + backward:", ""]
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for name in sorted({name for name, _ in mine}, key=lambda name: ZOO.index(name) if name in ZOO else len(ZOO)):
            whole = {**mine.get((name, True), {}), **mine.get((name, False), {})}
            size = [f"{whole['parameters'] / 1e6:.1f} M", str(whole["features"])] if "features" in whole else ["", ""]
            cells = [*cells_of(mine.get((name, False), {}))[:2], *cells_of(mine.get((name, True), {}))]
            lines.append(f"| {' | '.join([name, *size, *cells])} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def cells_of(run: Record) -> list[str]:
    if "first" not in run:
        return [run.get("error", ""), "", ""]
    return [
        f"{1000 * run['forward']:.0f} + {1000 * run['backward']:.0f}",
        f"{run['peak_mib']:,}",
        f"{run['first']:.0f}",
    ]


def facts(name: str) -> tuple[int, int, int, str]:
    """Parameters at 224 px, features, smallest size, small stem: what names.py says, found on the meta device."""

    def at(size: int) -> Any:
        try:
            with torch.device("meta"):
                return build(name, image_size=size)
        except ValueError as error:
            if "meta tensor" not in str(error):
                raise
            return build(name, image_size=size)  # a RegNet computes its widths with tensors

    def first(sizes: list[int]) -> tuple[int, Any]:
        for size in sizes:
            try:
                return size, at(size)
            except ValueError:
                continue
        raise ValueError(f"{name} takes none of {sizes}")

    _, large = first([224, *(size for size in names.SIZES if size > 224), 192])
    smallest, _ = first(list(names.SIZES))
    stem = small_stem(large.net) if smallest <= names.SMALL_IMAGE else None
    return sum(p.numel() for p in large.parameters()), large.dim, smallest, stem.words if stem else ""


def write_list() -> None:
    """names.py with what `facts` finds where it has zeros."""
    path = Path(names.__file__)
    for library, group in LISTS.items():
        for name, row in runpy.run_path(str(path))[group].items():
            if row[1]:
                continue
            parameters, features, smallest, words = facts(f"{library}/{name}")
            new = f'    "{name}": ({row[0]}, {parameters:_}, {features}, {smallest}, "{words}"),'
            text = path.read_text()
            head, _, tail = text.partition(f"\n{group}: ")
            tail = re.sub(rf'    "{re.escape(name)}": \(.*\),', new, tail, count=1)
            path.write_text(f"{head}\n{group}: {tail}")
            print(new, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="*", default=ZOO)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table and end")
    parser.add_argument("--list", action="store_true", help="fill names.py and end")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a network in a process of its own, for its memory
    args = parser.parse_args()
    if args.list:
        return write_list()
    if args.one:
        print(json.dumps(measure(args.one, args.batch, args.steps, args.compile)))
        return None
    runs = read(args.results)
    for name in [] if args.table else args.names:
        key = {"name": name, "device": device_words(), "compiled": args.compile, "batch": args.batch}
        if any(key.items() <= r.items() for r in runs):
            continue
        command = [sys.executable, __file__, "--one", name, "--batch", str(args.batch), "--steps", str(args.steps)]
        with tempfile.TemporaryDirectory() as nothing_compiled:
            env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": nothing_compiled}
            done = subprocess.run([*command, *["--compile"] * args.compile], capture_output=True, text=True, env=env)
        if done.returncode == 0:
            found = json.loads(done.stdout.splitlines()[-1])
        elif done.returncode in (-2, -15):  # stopped from outside: not the network's fault
            sys.exit(done.returncode)
        else:
            found = {"error": done.stderr.strip().splitlines()[-1]}
        runs.append({**key, "torch": torch.__version__, "steps": args.steps, **found})
        print(json.dumps(runs[-1]), flush=True)
        write(args.results, runs)
    print(table(runs))
    return None


if __name__ == "__main__":
    main()
