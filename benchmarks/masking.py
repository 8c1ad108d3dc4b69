"""What hiding patches saves: a step of MAE that hides three quarters of them, against one that hides a single patch.

    python benchmarks/masking.py            measure on the device that is there, write results/masking.json, print
    python benchmarks/masking.py --table    the table from results/masking.json

A step is the loss and its gradient, of noise, with the same weights both times; the two take turns, after one of each
that does not count. Memory is what the forward pass keeps for the gradient, weights apart.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from datamodules.batch import ImageBatch
from ssl_lightning.methods import MAE

RESULTS = Path(__file__).parent / "results" / "masking.json"
RATIO = 0.75
SMALL = {"decoder_dim": 128, "decoder_depth": 2, "decoder_heads": 4, "backbone_args": {"patch_size": 4}}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "vit_base_patch16_224, 224 px, the paper's decoder": ({"backbone": "vit_base_patch16_224", "image_size": 224}, 2),
    "vit_tiny_patch16_224, patches of 4, 32 px, 2 decoder blocks of 128": (
        {"backbone": "vit_tiny_patch16_224", "image_size": 32, **SMALL},
        64,
    ),
}


def seconds(model: MAE, batch: ImageBatch) -> float:
    def now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    model.training_step(batch, 0).backward()
    end = now()
    model.zero_grad()
    return end - start


def megabytes(model: MAE, batch: ImageBatch) -> float:
    """What autograd keeps, every storage once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model.training_step(batch, 0)
    del loss
    return sum(n for place, n in kept.items() if place not in weights) / 2**20


def measure(arguments: dict[str, Any], size: int, rounds: int, device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = MAE(mask_ratio=RATIO, **arguments).to(device)
    image = torch.zeros(size, 3, arguments["image_size"], arguments["image_size"], dtype=torch.uint8)
    x = torch.rand(image.shape, device=device)
    batch = ImageBatch(image, torch.zeros(size).long(), torch.arange(size), (x,))
    variants = {str(RATIO): model.hidden, "one patch": 1}
    times: dict[str, list[float]] = {name: [] for name in variants}
    memory: dict[str, float] = {}
    for turn in range(rounds + 1):
        for name, hidden in variants.items():
            model.hidden = hidden
            if turn == 0:
                memory[name] = megabytes(model, batch)
                seconds(model, batch)
            else:
                times[name].append(seconds(model, batch))
    return {
        "batch": size,
        "seconds": {name: [statistics.median(t), min(t), max(t)] for name, t in times.items()},
        "megabytes": {name: round(n, 1) for name, n in memory.items()},
    }


def table(saved: dict[str, Any]) -> str:
    """Seconds and megabytes at both ratios, in Markdown."""
    lines: list[str] = []
    for device, results in saved.items():
        lines += [f"{device}, {results['threads']} threads, torch {results['torch']}, Python {results['python']}:", ""]
        lines += ["| loss and gradient | hidden | seconds (range) | MB kept | share of time, of memory |"]
        lines += ["|---|---|---|---|---|"]
        for case, found in results["cases"].items():
            least, whole = (f"{RATIO}", "one patch")
            for name in (whole, least):
                median, low, high = found["seconds"][name]
                cells = f"{median:.3g} ({low:.3g}-{high:.3g}) | {found['megabytes'][name]:,.0f}"
                shares = [found[kind][name] for kind in ("seconds", "megabytes")]
                wholes = [found[kind][whole] for kind in ("seconds", "megabytes")]
                ratio = f"{shares[0][0] / wholes[0][0]:.2f}, {shares[1] / wholes[1]:.2f}" if name == least else ""
                lines.append(f"| {case}, batch {found['batch']} | {name} | {cells} | {ratio} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--rounds", type=int, default=5, help="how often each step is timed")
    args = parser.parse_args()
    saved: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not args.table:
        cuda = torch.cuda.is_available()
        name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
        saved[f"{'cuda' if cuda else 'cpu'}: {name}"] = {
            "cases": {case: measure(*what, args.rounds, "cuda" if cuda else "cpu") for case, what in CASES.items()},
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        RESULTS.write_text(json.dumps(saved, indent=1) + "\n")
    print(table(saved))


if __name__ == "__main__":
    main()
