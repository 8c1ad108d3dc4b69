"""Image files decoded once into one array on disk, which all processes map instead of decoding."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.loader import as_it_is
from datamodules.sets import ImageArray, ImageFiles

_CHUNK = 64  # images that a worker decodes at a time


def cached(files: ImageFiles, folder: Path, name: str, num_workers: int) -> tuple[ImageArray, list[str]]:
    """The images of `files` as a memory map, decoding them if the folder does not hold them as they are now.

    `<name>.json` says which files were decoded and how, and is written after the pixels are complete; while
    one process decodes, others wait. Pixels of an earlier state of the files are removed.

    Args:
        files: What to decode.
        folder: Where to keep the pixels.
        name: What to call them in that folder.
        num_workers: Processes that decode.

    Returns:
        The images that could be read, and the names of those that could not.

    Raises:
        ValueError: if the folder cannot be written, if an image cannot be read and `files.skip_unreadable` is
            off, or if none can be read.
        OSError: if the disk is too small for the pixels. What was written of them is removed.
    """
    key = _key(files)
    dropped = _dropped(files, folder, name, key)
    if dropped is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{name}.lock")
            lock.acquire()
        except OSError as error:
            raise ValueError(
                f"cannot write the cache folder {folder}: {error}; choose another with --data.cache_dir"
            ) from error
        with lock:  # counts: acquired twice, released twice
            lock.release()
            dropped = _dropped(files, folder, name, key)  # another process may have built it meanwhile
            if dropped is None:
                dropped = _build(files, folder, name, key, num_workers)
    if dropped and not files.skip_unreadable:
        raise ValueError(
            f"cannot read {len(dropped)} of the images under {files.root}, such as {dropped[0]}: remove "
            "them, or go on without such files with --data.skip_unreadable true"
        )
    without = set(dropped)
    rows = [i for i, file in enumerate(files.names) if file not in without]
    shape = (len(rows), files.in_channels, files.store_size, files.store_size)
    images = np.memmap(_pixels(folder, name, key), np.uint8, "r", shape=shape)
    return ImageArray(images, files.labels[rows], [files.names[i] for i in rows]), dropped


def _key(files: ImageFiles) -> str:
    stats = [os.stat(files.root / name) for name in files.names]
    state = [files.names, [s.st_size for s in stats], [s.st_mtime_ns for s in stats]]
    return hashlib.sha256(json.dumps([state, files.store_size, files.in_channels]).encode()).hexdigest()[:16]


def _pixels(folder: Path, name: str, key: str) -> Path:
    return folder / f"{name}-{key}.uint8"


def _image_bytes(files: ImageFiles) -> int:
    return files.in_channels * files.store_size**2


def _dropped(files: ImageFiles, folder: Path, name: str, key: str) -> list[str] | None:
    """Names of the unreadable images of a complete cache of these files; None if there is no such cache."""
    record, pixels = folder / f"{name}.json", _pixels(folder, name, key)
    if not record.is_file() or not pixels.is_file():
        return None
    try:
        saved = json.loads(record.read_text())
    except json.JSONDecodeError:  # cut off, by a full disk or a crash
        return None
    if saved["key"] != key:
        return None
    dropped: list[str] = saved["unreadable"]
    complete = pixels.stat().st_size == (len(files) - len(dropped)) * _image_bytes(files)
    return dropped if complete else None


class _Chunks(Dataset[tuple[np.ndarray, list[str]]]):
    """Decodes: a list of indices gives the pixels of the readable images and the names of the others."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files

    def __getitem__(self, indices: Sequence[int]) -> tuple[np.ndarray, list[str]]:
        images = [self.files.read(i) for i in indices]
        readable = [image for image in images if image is not None]
        size = self.files.store_size
        pixels = np.stack(readable) if readable else np.empty((0, self.files.in_channels, size, size), np.uint8)
        return pixels, [self.files.names[i] for i, image in zip(indices, images, strict=True) if image is None]


def _build(files: ImageFiles, folder: Path, name: str, key: str, num_workers: int) -> list[str]:
    for old in folder.glob(f"{name}-*.uint8*"):
        old.unlink()  # a process that maps it keeps its pages
    need, free = len(files) * _image_bytes(files), shutil.disk_usage(folder).free
    advice = "free some, choose another disk with --data.cache_dir, or a smaller --data.store_size"
    if need > free:
        raise OSError(f"the cache takes {need / 1e9:.3g} GB and {folder} has {free / 1e9:.3g} GB left: {advice}")
    chunks = [list(range(i, min(i + _CHUNK, len(files)))) for i in range(0, len(files), _CHUNK)]
    decoded = DataLoader(
        _Chunks(files),
        sampler=chunks,
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=min(num_workers, len(chunks)),
        generator=torch.Generator(),
    )
    dropped: list[str] = []
    pixels, record = _pixels(folder, name, key), folder / f"{name}.json"
    part = pixels.with_suffix(".uint8.part")
    try:
        with (
            part.open("wb") as out,
            tqdm(total=len(files), desc=f"decoding {name}", unit=" images", delay=2, disable=None) as bar,
        ):
            for images, unreadable in decoded:
                out.write(images.tobytes())
                dropped += unreadable
                bar.update(len(images) + len(unreadable))
            if len(dropped) == len(files):
                raise ValueError(f"none of the {len(files)} images under {files.root} can be read")
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, pixels)
        part.write_text(json.dumps({"key": key, "unreadable": dropped}))
        os.replace(part, record)
    except OSError as error:
        raise OSError(f"cannot write the cache {pixels}: {error}; {advice}") from error
    finally:
        part.unlink(missing_ok=True)
    return dropped
