"""What chunk_size saves and costs: memory and time of a SimCLR step with a small vision transformer.

    python benchmarks/chunks.py                 measure on a CPU, or on a GPU if there is one; save results/chunks.json
    python benchmarks/chunks.py --table         the table of docs/methods.md

A process for each size makes one step (forward, backward) to warm up and then two, of which the shorter counts.
Memory is what a step adds to a process that holds model and images: on a CPU the process's peak, read from the kernel,
on a GPU that of the allocator.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import time
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results" / "chunks.json"
SIZES = (None, 64, 16)
MODEL = {"patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3}


def peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(chunk_size: int | None, batch: int, image_size: int, device: str) -> dict[str, Any]:
    """One size, in a process of its own."""
    from datamodules.batch import ImageBatch  # noqa: PLC0415  (slow, and not before the fork)
    from ssl_lightning.methods import SimCLR  # noqa: PLC0415

    torch.manual_seed(0)
    model = SimCLR(
        backbone="vit_tiny_patch16_224", backbone_args=MODEL, image_size=image_size, chunk_size=chunk_size
    ).to(device)
    views = tuple(torch.rand(batch, 3, image_size, image_size, device=device) for _ in range(2))
    label = torch.zeros(batch, dtype=torch.int64, device=device)
    data = ImageBatch(label, label, torch.arange(batch), views)
    before, times, gradient = peak(device), [], 0.0
    for _ in range(3):
        model.zero_grad()
        start = time.perf_counter()
        model.training_step(data, 0).backward()
        gradient = sum(p.grad.double().square().sum().item() for p in model.parameters() if p.grad is not None) ** 0.5
        times.append(time.perf_counter() - start)
    return {
        "chunk_size": chunk_size,
        "mebibytes": round((peak(device) - before) / 2**20),
        "seconds": round(min(times[1:]), 3),
        "gradient_norm": round(gradient, 6),
    }


def table(results: dict[str, Any]) -> str:
    rows = ["| chunk_size | memory of a step | time of a step |", "|---|---|---|"]
    whole = results["runs"][0]
    for run in results["runs"]:
        size = "null (all)" if run["chunk_size"] is None else run["chunk_size"]
        ratio = run["seconds"] / whole["seconds"]
        rows.append(f"| {size} | {run['mebibytes']:,} MiB | {run['seconds']:.2f} s, {ratio:.2f} times |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, help="images, of which each has two views")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--table", action="store_true", help="print the table and end")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(RESULTS.read_text())))
        return
    spawn = multiprocessing.get_context("spawn")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    runs = []
    for size in SIZES:
        with spawn.Pool(1) as pool:
            runs.append(pool.apply(measure, (size, args.batch, args.image_size, device)))
        print(json.dumps(runs[-1]), flush=True)
    results = {
        "runs": runs,
        "batch": args.batch,
        "views": 2,
        "image_size": args.image_size,
        "model": MODEL,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
