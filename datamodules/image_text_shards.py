"""Images and captions in tar files, streamed: data sets that are too large to list."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.byte_pairs import BytePairs
from datamodules.image_text import Captions
from datamodules.image_text_csv import Tables
from datamodules.images import Splits
from datamodules.loader import TrainLoader, rank_and_world
from datamodules.sets import Images
from datamodules.shards import ShardBatches, ShardLoader, Shards, captions_of, find_shards

_CAPTIONS = 1_000_000  # most captions that a tokenizer is trained on


class ImageTextShards(Tables):
    """Images and captions in tar files of webdataset's convention, key.jpg and key.txt, read as a stream.

    The lines of a text are captions, of which each epoch draws one. `ssl-lightning shards` makes such files from a
    table. Every process, and every worker in it, reads its own shards in an order drawn by (seed, epoch), shuffled
    within a window; the order depends on their number, and a run goes on exactly with the same number. An epoch has as
    many samples as the shards hold, whatever cannot be read: the next sample stands in for it, and it is counted.

    Args:
        shards: A folder of .tar files, or names with braces, such as `data/{00000..00099}.tar` or any source of
            webdataset's.
        num_samples: Samples in all shards, where no sizes.json beside them says it.
        shuffle: Samples of a worker's stream among which the next one is drawn; held in memory undecoded.
        val: A table (see ImageTextCSV) of held-out images for validation, which are named from its folder.
        test: A table of held-out images for the test, in the same folder.
        kwargs: Captions and how images are read, see ImageTextData and FileImages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the number of samples is not known, or there are fewer shards than processes and workers.
        ModuleNotFoundError: the extra `shards` is not installed.
    """

    def __init__(
        self,
        shards: str,
        num_samples: int | None = None,
        shuffle: int = 1000,
        val: str | None = None,
        test: str | None = None,
        **kwargs: Any,
    ) -> None:
        if shuffle < 1:
            raise ValueError(f"shuffle must be at least 1, got {shuffle}")
        self.shards, self.num_samples, self.shuffle, self.val, self.test = shards, num_samples, shuffle, val, test
        self.urls, self.samples = find_shards(shards, num_samples)
        folder = Path(val or test or shards).expanduser().parent
        super().__init__(folder=folder, tables={"val": val, "test": test}, **kwargs)
        self._shards: Shards | None = None

    def splits(self) -> Splits:
        val, test = self.sets()
        nothing = Images(np.zeros(0))  # training images are not listed
        return Splits(nothing, bank=val, val=val, test=test, predict=test or nothing)

    def all_captions(self) -> Iterable[str]:
        return islice(captions_of(self.urls), _CAPTIONS)

    def _training_captions(self, tokenizer: BytePairs) -> Captions | None:
        return None  # they are in the stream

    def train_dataloader(self) -> TrainLoader:
        self._close("train")
        assert self.pieces is not None
        rank, world = rank_and_world()
        self._shards = Shards(
            self.urls,
            self.samples,
            self.pieces,
            self.max_tokens,
            self.store_size,
            self.in_channels,
            self.batch_size,
            streams=max(1, self.num_workers),
            shuffle=self.shuffle,
            seed=self.seed,
            rank=rank,
            world=world,
        )
        batches = ShardBatches(self.samples, self.batch_size, self.seed)
        loader = ShardLoader(self._shards, batches, self.num_workers, self._pin())
        self._loaders["train"] = loader
        return loader

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        if self._shards is not None and stage == "fit":
            skipped = self._shards.unreadable_samples.sum().float()
            if self.trainer is not None:
                strategy = self.trainer.strategy
                skipped = strategy.reduce(skipped.to(strategy.root_device), reduce_op="sum").cpu()
            if skipped:
                rank_zero_warn(
                    f"{int(skipped)} samples could not be read and the next ones stood in for them, each counted "
                    "whenever it was met"
                )
