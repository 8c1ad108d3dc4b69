"""Tar files of images and captions in the convention of webdataset: key.jpg and key.txt, made and streamed."""

import hashlib
import json
import random
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from datamodules.batch import ImageTextBatch
from datamodules.byte_pairs import BytePairs
from datamodules.decode import UNREADABLE, read_image, readable_extensions
from datamodules.image_text import chosen
from datamodules.image_text_csv import read_table
from datamodules.loader import EpochBatches, TrainLoader
from datamodules.sets import Images

SIZES = "sizes.json"  # the samples of each shard, as webdataset keeps them
_TRIES = 10  # batches of samples, of which one at least must be readable


def library() -> ModuleType:
    """The webdataset library.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import webdataset  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("shards need the package webdataset: pip install 'ssl-lightning[shards]'") from error
    return webdataset


def write_shards(table: str | Path, output: str | Path, images_per_shard: int = 1000, seed: int = 0) -> int:
    """Put the images of a table (see ImageTextCSV), in an order drawn by `seed`, into tar files.

    An image is copied as it is; its captions are the lines of its text.

    Args:
        table: The table.
        output: The folder of 00000.tar, 00001.tar, ... and sizes.json; it is made.
        images_per_shard: The most images in a shard.
        seed: Decides the order.

    Returns:
        The number of shards.

    Raises:
        FileExistsError: the folder holds shards.
        FileNotFoundError: there is no such table, or an image that it lists.
        ValueError: the table is not as it should be, an image has no extension of one, or `images_per_shard` is less
            than 1.
        ModuleNotFoundError: the extra `shards` is not installed.
    """
    wds = library()
    if images_per_shard < 1:
        raise ValueError(f"images_per_shard must be at least 1, got {images_per_shard}")
    folder, root = Path(output), Path(table).expanduser().parent
    if any(folder.glob("*.tar")):
        raise FileExistsError(f"{folder} holds shards: give the name of a new folder")
    titles = read_table(table, root)
    known = readable_extensions()
    if other := [name for name in titles if Path(name).suffix.lower() not in known]:
        raise ValueError(f"{other[0]} does not end in .jpg or the like, by which shards know images: rename it")
    names = [list(titles)[i] for i in np.random.default_rng(seed).permutation(len(titles))]
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for number, first in enumerate(range(0, len(names), images_per_shard)):
        some = names[first : first + images_per_shard]
        part = folder / f".{number:05d}.part"
        with wds.TarWriter(str(part)) as shard:
            for place, name in enumerate(some, first):
                text = "\n".join(" ".join(title.split()) for title in titles[name])
                kind = Path(name).suffix.lower()[1:]
                shard.write({"__key__": f"{place:09d}", kind: (root / name).read_bytes(), "txt": text})
        part.replace(folder / f"{number:05d}.tar")
        sizes[f"{number:05d}.tar"] = len(some)
    (folder / SIZES).write_text(json.dumps(sizes))
    return len(sizes)


def find_shards(shards: str, num_samples: int | None) -> tuple[list[str], int]:
    """The shards that a user names, and how many samples they hold.

    Args:
        shards: A folder, or names with braces, such as data/{00000..00099}.tar or of any source of webdataset's.
        num_samples: The number, where there is no sizes.json in the folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the number of samples is not known.
        ModuleNotFoundError: the extra `shards` is not installed.
    """
    if Path(shards).is_dir():
        urls = sorted(str(path) for path in Path(shards).glob("*.tar"))
        if not urls:
            raise FileNotFoundError(f"there is no .tar in {shards}")
    else:
        urls = list(library().shardlists.expand_urls(shards))
        if missing := [url for url in urls if ":" not in url and not Path(url).is_file()]:
            raise FileNotFoundError(f"{len(missing)} of {len(urls)} shards are not there, such as {missing[0]}")
    if num_samples is None:
        sizes = Path(urls[0]).parent / SIZES
        if not sizes.is_file():
            raise ValueError(f"there is no {sizes} that says how many samples the shards hold: give num_samples")
        by_name = json.loads(sizes.read_text())
        if unknown := [url for url in urls if Path(url).name not in by_name]:
            raise ValueError(f"{sizes} does not know {unknown[0]}: give num_samples")
        num_samples = sum(by_name[Path(url).name] for url in urls)
    return urls, num_samples


def decoded(sample: dict[str, Any], store_size: int, in_channels: int) -> tuple[np.ndarray, list[str]]:
    """The image (C, store_size, store_size) uint8 and the captions of a sample.

    Raises:
        one of UNREADABLE: it lacks one, or they cannot be read.
    """
    known = readable_extensions()
    image = next((value for key, value in sample.items() if f".{key.split('.')[-1]}" in known), None)
    titles = [line for line in sample.get("txt", b"").decode().splitlines() if line.strip()]
    if image is None or not titles:
        raise ValueError(f"{sample['__key__']} has no {'image' if image is None else 'caption'}")
    return read_image(image, store_size, in_channels), titles


def captions_of(urls: list[str]) -> Iterator[str]:
    """The captions of all samples, in order; what cannot be read is left out."""
    for sample in _samples(urls, lambda error: True):
        yield from sample.get("txt", b"").decode(errors="ignore").splitlines()


def _samples(urls: list[str], handler: Callable[[Exception], bool]) -> Iterator[dict[str, Any]]:
    tar = library().tariterators
    for url in urls:  # one by one: webdataset's own pipeline leaves files open
        try:
            stream = library().gopen(url)
        except OSError as error:
            handler(error)
            continue
        with stream:
            files = tar.tar_file_expander([{"url": url, "stream": stream}], handler=handler)
            yield from tar.group_by_keys(files, handler=handler)


class Stream:
    """One stream of samples: every W-th shard of an epoch's order, again and again, shuffled in a window.

    A batch takes the next B samples. For one that cannot be read the next readable sample behind the batch stands in,
    and stays in line: so where a batch begins does not depend on what can be read, and an epoch goes on anywhere.

    Args:
        raw: The samples.
        shards: Reads them.
        slot: Where unreadable ones are counted.
    """

    def __init__(self, raw: Iterator[dict[str, Any]], shards: "Shards", slot: int) -> None:
        self.raw, self.shards, self.slot = raw, shards, slot
        self.ahead: deque[dict[str, Any]] = deque()  # looked at, and still in line
        self.place = 0  # batches handed out

    def _next(self) -> dict[str, Any]:
        return self.ahead.popleft() if self.ahead else next(self.raw)

    def skip(self, batches: int) -> None:
        for _ in range(batches * self.shards.batch_size):
            next(self.raw)
        self.place = batches

    def batch(self) -> list[tuple[dict[str, Any], np.ndarray, list[str]]]:
        n = self.shards.batch_size
        found = []
        for sample in [self._next() for _ in range(n)]:
            if (good := self._decoded(sample)) is None:
                self.shards.unreadable_samples[self.slot] += 1
            else:
                found.append(good)
        place = 0
        while len(found) < n:
            if place == _TRIES * n:
                raise ValueError(f"of {n} samples only {len(found)} can be read, and none of {place} behind them")
            if place == len(self.ahead):
                self.ahead.append(next(self.raw))
            if (good := self._decoded(self.ahead[place])) is not None:
                found.append(good)
            place += 1
        self.place += 1
        return found

    def _decoded(self, sample: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray, list[str]] | None:
        try:
            return sample, *decoded(sample, self.shards.store_size, self.shards.in_channels)
        except UNREADABLE:
            return None


class Shards(Images):
    """Samples of shards: `shards[[epoch, step]]` is a batch of this process.

    Step t is the next batch of stream t modulo `streams`; a worker of a loader that serves every `streams`-th step
    reads its own shards in one go. An image's `index`, from which its draws come, is a hash of its shard and key.

    Args:
        urls: The shards.
        n: Samples in them.
        tokenizer: For the captions.
        max_tokens: Length of a caption in tokens.
        store_size: Side of the squares that the images are brought to.
        in_channels: 1 (grey) or 3 (colour).
        batch_size: Samples in a batch.
        streams: Of this process: as many as its loader has workers, or 1.
        shuffle: Samples among which the next one is drawn.
        seed: With the epoch, decides the order, and which caption is taken.
        rank: This process's number.
        world: How many processes there are.

    Raises:
        ValueError: there are fewer shards than streams.
    """

    def __init__(
        self,
        urls: list[str],
        n: int,
        tokenizer: BytePairs,
        max_tokens: int,
        store_size: int,
        in_channels: int,
        batch_size: int,
        streams: int,
        shuffle: int,
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        super().__init__(np.zeros(0))
        if len(urls) < world * streams:
            raise ValueError(
                f"{len(urls)} shard(s) for {world} process(es) with {streams} reader(s) each: make more shards, or "
                "lower --data.num_workers"
            )
        self.urls, self.n, self.tokenizer, self.max_tokens = urls, n, tokenizer, max_tokens
        self.store_size, self.in_channels, self.batch_size = store_size, in_channels, batch_size
        self.streams, self.shuffle, self.seed, self.rank, self.world = streams, shuffle, seed, rank, world
        self.unreadable_samples = torch.zeros(streams, dtype=torch.int64).share_memory_()  # workers count here
        self._open: dict[int, tuple[int, Stream]] = {}

    def __len__(self) -> int:
        return self.n

    def _raw(self, epoch: int, slot: int) -> Iterator[dict[str, Any]]:
        wds = library()
        number, total = self.rank * self.streams + slot, self.world * self.streams
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.urls))[number::total]

        def broken(error: Exception) -> bool:
            self.unreadable_samples[slot] += 1
            return True

        for lap in count():
            samples = _samples([self.urls[i] for i in order], broken)
            rng = random.Random(f"{self.seed} {epoch} {number} {lap}")
            shuffled = wds.shuffle(self.shuffle, initial=self.shuffle, rng=rng)(samples)
            first = next(shuffled, None)
            if first is None:
                raise ValueError(f"nothing in {self.urls[order[0]]} and {len(order) - 1} other shard(s) can be read")
            yield from chain([first], shuffled)

    def __getitem__(self, request: Any) -> Any:
        epoch, step = request
        slot, place = step % self.streams, step // self.streams
        at, stream = self._open.get(slot, (-1, None))
        if stream is None or (at, stream.place) != (epoch, place):
            stream = Stream(self._raw(epoch, slot), self, slot)
            stream.skip(place)
            self._open[slot] = (epoch, stream)
        samples, images, titles = zip(*stream.batch(), strict=True)
        names = [f"{Path(sample['__url__']).name}/{sample['__key__']}" for sample in samples]
        hashes = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
        index = torch.tensor([int.from_bytes(h, "little", signed=True) for h in hashes])
        rows = chosen(index, torch.tensor([len(of_one) for of_one in titles]), self.seed, epoch).tolist()
        captions = [of_one[row] for of_one, row in zip(titles, rows, strict=True)]
        tokens = torch.from_numpy(self.tokenizer(captions, self.max_tokens))
        label = torch.full((len(index),), -1)
        return ImageTextBatch(torch.from_numpy(np.stack(images)), label, index, tokens)


class ShardBatches(EpochBatches):
    """As EpochBatches, but yields [epoch, step] for Shards."""

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for step in range(start, len(self)):
            yield [self.epoch, step]


class ShardLoader(TrainLoader):
    """A TrainLoader of Shards, whose order depends on the number of streams too."""

    dataset: Shards

    def _order(self) -> dict[str, int]:
        return {
            **super()._order(),
            "streams": self.dataset.streams * self.dataset.world,
            "shuffle": self.dataset.shuffle,
        }
