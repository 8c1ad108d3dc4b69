"""How long a JPEG photograph takes to become a square of 256 px, on one core, by each library that is installed.

    SSL_LIGHTNING_DATA=DIR python benchmarks/decode.py          measure, write results/decode.json, print the table
    python benchmarks/decode.py --table                         the table from results/decode.json

DIR/flickr8k/images/*.jpg are photographs of 128 x 128 px. The larger ones are mosaics of them, saved with quality 90:
500 x 375 is the usual size in ImageNet, 2048 x 1536 that of a camera. Every way reads the file, decodes it and brings
its middle square to 256 px. The time is that of the process, on one thread, and the ways take turns on a few pictures
each. The error is the mean absolute difference, of 255 levels, from all pixels decoded and resampled by Pillow.

simplejpeg and opencv-python-headless are no dependencies of the project: without them their rows are left out.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from datamodules.decode import read_image

RESULTS = Path(__file__).parent / "results" / "decode.json"
SIDE = 256
EXACT = "Pillow"
TURN = 6  # pictures in a row by the same way
TILE = 128
PICTURES = {(128, 128): 200, (500, 375): 60, (2048, 1536): 12}  # how many of each size
LIBRARIES = ("pillow", "torch", "torchvision", "simplejpeg", "opencv-python-headless", "numpy")
Way = Callable[[Path], np.ndarray]  # to (SIDE, SIDE, 3) uint8


def middle(height: int, width: int) -> tuple[int, int, int]:
    """Top, left and side of the middle square."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def by_pillow(image: Image.Image) -> np.ndarray:
    top, left, side = middle(image.height, image.width)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))


def by_torch(image: Tensor) -> np.ndarray:
    top, left, side = middle(*image.shape[1:])
    square = image[None, :, top : top + side, left : left + side]
    return F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


def pillow(path: Path, draft: bool) -> Image.Image:
    image = Image.open(path)
    if draft:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
    image.load()
    return image


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def torchvision(path: Path) -> Tensor:
    return decode_jpeg(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8), mode=ImageReadMode.RGB)


def ways() -> dict[str, Way]:
    found: dict[str, Way] = {
        EXACT: lambda path: by_pillow(pillow(path, draft=False)),
        "Pillow with draft": lambda path: by_pillow(pillow(path, draft=True)),
        "Pillow, resized by torch": lambda path: by_torch(pixels(pillow(path, draft=False))),
        "Pillow with draft, resized by torch": lambda path: by_torch(pixels(pillow(path, draft=True))),
        "`datamodules.decode.read_image`": lambda path: read_image(path, SIDE, 3).transpose(1, 2, 0),
        "torchvision, resized by Pillow": lambda path: by_pillow(
            Image.fromarray(torchvision(path).permute(1, 2, 0).numpy())
        ),
        "torchvision, resized by torch": lambda path: by_torch(torchvision(path)),
    }
    try:
        import simplejpeg  # noqa: PLC0415

        def turbo(path: Path, **least: int) -> np.ndarray:
            return by_torch(torch.from_numpy(simplejpeg.decode_jpeg(path.read_bytes(), **least)).permute(2, 0, 1))

        found["simplejpeg, resized by torch"] = turbo
        found["simplejpeg with draft, resized by torch"] = lambda path: turbo(
            path, min_height=2 * SIDE, min_width=2 * SIDE, min_factor=2
        )
    except ImportError:
        print("simplejpeg is not installed: left out", file=sys.stderr)
    try:
        import cv2  # noqa: PLC0415

        cv2.setNumThreads(1)

        def opencv(path: Path) -> np.ndarray:
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
            top, left, side = middle(*image.shape[:2])
            method = cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR
            return cv2.resize(image[top : top + side, left : left + side], (SIDE, SIDE), interpolation=method)

        found["OpenCV, resized by area"] = opencv
    except ImportError:
        print("opencv-python-headless is not installed: left out", file=sys.stderr)
    return found


def write_pictures(photographs: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Files by size: the photographs themselves, and mosaics of them."""
    tiles = np.stack([np.asarray(Image.open(path).convert("RGB").resize((TILE, TILE))) for path in photographs])
    rng = np.random.default_rng(0)
    files: dict[str, list[Path]] = {}
    for (width, height), count in PICTURES.items():
        size = f"{width} x {height}"
        if width == TILE:
            files[size] = photographs[:count]
            continue
        files[size] = [folder / f"{width}-{i}.jpg" for i in range(count)]
        for file in files[size]:
            rows, columns = -(-height // TILE), -(-width // TILE)
            chosen = tiles[rng.integers(len(tiles), size=(rows, columns))]  # (rows, columns, TILE, TILE, 3)
            whole = chosen.swapaxes(1, 2).reshape(rows * TILE, columns * TILE, 3)
            Image.fromarray(whole[:height, :width]).save(file, quality=90)
    return files


def measure(files: list[Path], rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds a picture of each way, and its error."""
    every = ways()
    errors: dict[str, list[float]] = {name: [] for name in every}
    for file in files:
        exact = every[EXACT](file).astype(int)
        for name, way in every.items():
            errors[name].append(float(np.abs(way(file) - exact).mean()))
    times: dict[str, list[float]] = {name: [] for name in every}
    rng = np.random.default_rng(0)
    for first in [*range(0, len(files), TURN)] * rounds:
        turn = files[first : first + TURN]
        for name in rng.permutation(list(every)).tolist():
            every[name](turn[-1])
            for file in turn:
                start = time.process_time()
                every[name](file)
                times[name].append(1000 * (time.process_time() - start))
    quartiles = {name: np.quantile(values, [0.25, 0.5, 0.75]).round(4).tolist() for name, values in times.items()}
    return {
        name: {"ms": median, "quartiles": [low, high], "error": round(float(np.mean(errors[name])), 4)}
        for name, (low, median, high) in quartiles.items()
    }


def versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "Pillow's libjpeg-turbo": features.version_feature("libjpeg_turbo") or "none"}


def table(saved: dict[str, Any]) -> str:
    """Milliseconds a picture and error by size, in Markdown."""
    sizes = list(saved["results"])
    rows = ["| ms a picture (quartiles), error | " + " | ".join(f"{size} px" for size in sizes) + " |"]
    rows.append("|---|" + "---|" * len(sizes))
    for name in saved["results"][sizes[0]]:
        cells = []
        for size in sizes:
            figure = saved["results"][size][name]
            low, high = figure["quartiles"]
            cells.append(f"{figure['ms']:.2f} ({low:.2f}-{high:.2f}), {figure['error']:.1f}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    machine = saved["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in saved["versions"].items())
    rows += ["", f"One thread of {machine['cores']} cores, Python {machine['python']}, {libraries}."]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--rounds", type=int, default=5, help="how often each picture is decoded in each way")
    args = parser.parse_args()
    if not args.table:
        if "SSL_LIGHTNING_DATA" not in os.environ:
            sys.exit("set SSL_LIGHTNING_DATA to a folder with flickr8k/images/*.jpg")
        found = sorted(Path(os.environ["SSL_LIGHTNING_DATA"], "flickr8k", "images").glob("*.jpg"))
        photographs = found[:: max(1, len(found) // PICTURES[TILE, TILE])]
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            files = write_pictures(photographs, Path(folder))
            results = {size: measure(paths, args.rounds) for size, paths in files.items()}
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        saved = {"results": results, "versions": versions(), "machine": machine}
        RESULTS.write_text(json.dumps(saved, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
