"""Which images make up a batch, and the loaders that hand out whole batches and resume inside an epoch."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, Sampler


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are: (0, 1) outside of distributed training."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class EpochBatches(Sampler[list[int]]):
    """The training batches of one process: a new order in every epoch, a function of (seed, epoch) alone.

    Step t of an epoch takes rows [t*B*W, (t+1)*B*W) of the order for the W processes together, and this
    process its B of them: W processes of B images see what one process of W*B images sees. What is left at
    the end of the order is not used in that epoch.

    Args:
        n: Samples in the set.
        batch_size: Samples in a batch of one process (B).
        seed: Together with the epoch, decides the order.
        rank: This process's number; None asks torch.distributed.
        world: How many processes there are (W); None asks torch.distributed.

    Raises:
        ValueError: if the samples do not fill one batch of every process.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int | None = None, world: int | None = None) -> None:
        here, processes = rank_and_world()
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank = here if rank is None else rank
        self.world = processes if world is None else world
        self.epoch = 0
        self.start = 0
        if n < self.global_batch:
            raise ValueError(
                f"{n} training samples do not fill one batch of {batch_size} on each of {self.world} "
                f"process(es): set batch_size to at most {n // self.world}"
            )

    @property
    def global_batch(self) -> int:
        """Images in a step of all processes together (B*W)."""
        return self.batch_size * self.world

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; a new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        return self.n // self.global_batch

    def order(self) -> np.ndarray:
        """(n,) int64: the rows of this epoch, in the order in which they are taken."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.n)

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        order = self.order()
        for step in range(start, len(self)):
            first = (step * self.world + self.rank) * self.batch_size
            yield order[first : first + self.batch_size].tolist()


class LabelledFirst(EpochBatches):
    """Batches of a few labelled images and more of a pool: an epoch is a pass over the pool, in which the labelled
    images come as often as it takes. Row i of a set of N is i, then i + N, i + 2 N, ...: each time draws other views.

    Args:
        labelled: How many labelled images there are, the first rows of the set.
        pool: How many images the pool has, the rows behind them.
        batch_size: Labelled images in a batch of one process; they come first.
        ratio: Images of the pool for each of them.
        seed: Together with the epoch, decides the order.
        rank: This process's number; None asks torch.distributed.
        world: How many processes there are; None asks torch.distributed.

    Raises:
        ValueError: if the pool does not fill one batch of every process.
    """

    def __init__(
        self,
        labelled: int,
        pool: int,
        batch_size: int,
        ratio: int,
        seed: int,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        processes = rank_and_world()[1] if world is None else world
        if pool < ratio * batch_size * processes:
            raise ValueError(
                f"{pool} unlabelled images do not fill one batch of {ratio} x {batch_size} on each of {processes} "
                f"process(es): set batch_size to at most {pool // (ratio * processes)}, or lower unlabelled_ratio"
            )
        super().__init__(pool, ratio * batch_size, seed, rank, world)
        self.labelled, self.labelled_batch = labelled, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        draws = np.random.default_rng([self.seed, self.epoch, 1])
        rounds = -(-len(self) * self.labelled_batch * self.world // self.labelled)
        size = self.labelled + self.n
        known = np.concatenate([draws.permutation(self.labelled) + size * r for r in range(rounds)])
        step = self.start
        for of_pool in super().__iter__():
            first = (step * self.world + self.rank) * self.labelled_batch
            step += 1
            yield [*known[first : first + self.labelled_batch].tolist(), *(self.labelled + i for i in of_pool)]


class ResampledBatches(EpochBatches):
    """Training batches in which an image comes up in proportion to its weight.

    An epoch has as many places as there are images. One whose share of them is 1.3 takes one or two in an epoch, 1.3 in
    the mean; which, and in what order, is a function of (seed, epoch) alone.

    Args:
        weights: (n,) above 0.
        batch_size: Samples in a batch of one process.
        seed: Together with the epoch, decides what is drawn.
        rank: This process's number; None asks torch.distributed.
        world: How many processes there are; None asks torch.distributed.

    Raises:
        ValueError: if the samples do not fill one batch of every process.
    """

    def __init__(
        self, weights: np.ndarray, batch_size: int, seed: int, rank: int | None = None, world: int | None = None
    ) -> None:
        super().__init__(len(weights), batch_size, seed, rank, world)
        self.weights = np.asarray(weights, dtype=np.float64)

    def order(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(self.n)  # else neighbours in the set would never come in one epoch
        ends = self.weights[rows].cumsum()
        drawn = np.searchsorted(ends / ends[-1], (np.arange(self.n) + rng.random()) / self.n)
        return rng.permutation(rows[drawn])


class EvalBatches(Sampler[list[int]]):
    """Every image once, in order: image i goes to process i modulo W, and nothing is repeated for evenness.

    All processes have the same number of batches, whose sizes differ by one at most, so that none waits for
    another in a collective call. With fewer images than processes some batches are empty.

    Args:
        n: Images in the set.
        batch_size: The most images in a batch of one process.
        rank: This process's number; None asks torch.distributed.
        world: How many processes there are (W); None asks torch.distributed.
    """

    def __init__(self, n: int, batch_size: int, rank: int | None = None, world: int | None = None) -> None:
        here, processes = rank_and_world()
        self.n, self.batch_size = n, batch_size
        self.rank = here if rank is None else rank
        self.world = processes if world is None else world

    def __len__(self) -> int:
        images = -(-self.n // self.world)  # of the process that has most
        return -(-images // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        if self.n == 0:
            return
        for batch in np.array_split(np.arange(self.rank, self.n, self.world), len(self)):
            yield batch.tolist()


class _Batches(Protocol):
    batch_size: int

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[list[int]]: ...


def as_it_is(batch: Any) -> Any:
    """The `collate_fn` of a data set that returns whole batches: torch's own would make lists of tuples."""
    return batch


class Loader:
    """Hands out `dataset[indices]` for every list of indices of a sampler: one indexing makes a batch.

    It holds a DataLoader and is none itself. Lightning wraps the sampler of a DataLoader on several
    processes, builds it anew for prediction, and warns where it has no workers, which images in memory do not
    need; other iterables it leaves alone. Nothing is drawn from the global generators, so iterating changes
    nobody's random numbers. An iteration begins at its first batch, that is after Lightning has set the
    epoch.

    Args:
        dataset: Takes a list of indices and returns a batch.
        sampler: Yields the lists of indices; `sampler.batch_size` is the size per process.
        num_workers: Processes that read, kept alive between epochs; 0 reads in this process.
        pin_memory: Copy batches to page-locked memory, for transfers to a CUDA device.
    """

    batch_sampler = None  # Lightning reads it wherever there is a `sampler`

    def __init__(
        self, dataset: Dataset[Any], sampler: _Batches, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = sampler.batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.fetching: AbstractContextManager[Any] = nullcontext()  # entered for each batch, left when it is here
        self._loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset,
                sampler=self.sampler,
                batch_size=None,
                collate_fn=as_it_is,
                num_workers=self.num_workers,
                persistent_workers=self.num_workers > 0,
                pin_memory=self.pin_memory,
                generator=torch.Generator(),  # else each iteration draws a seed from the global one
            )
        batches = iter(self._loader)
        while True:
            with self.fetching:
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def close(self) -> None:
        """Ends the worker processes now, whoever still holds an iteration; a later iteration starts new ones."""
        loader, self._loader = self._loader, None
        workers = None if loader is None else loader._iterator
        if workers is not None:  # left to the garbage collector of a cycle, its queues may be closed twice
            workers._shutdown_workers()  # type: ignore[attr-defined]


class TrainLoader(Loader):
    """A loader that Lightning saves and restores: it resumes an epoch after the last batch handed out.

    Args:
        dataset: Takes a list of indices and returns a batch.
        sampler: The training batches.
        num_workers: Processes that read, kept alive between epochs; 0 reads in this process.
        pin_memory: Copy batches to page-locked memory, for transfers to a CUDA device.
    """

    sampler: EpochBatches

    def __init__(
        self, dataset: Dataset[Any], sampler: EpochBatches, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        super().__init__(dataset, sampler, num_workers, pin_memory)
        self._epoch, self._batches = 0, 0  # batches handed out in this epoch

    def __iter__(self) -> Iterator[Any]:
        self._epoch, self._batches = self.sampler.epoch, self.sampler.start
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def _order(self) -> dict[str, int]:
        return {
            "images": self.sampler.n,
            "seed": self.sampler.seed,
            "global_batch": self.sampler.global_batch,
        }

    def state_dict(self) -> dict[str, int]:
        """The epoch, the batches of it handed out, and what its order depends on."""
        epoch = self.sampler.epoch
        return {
            "epoch": epoch,
            "batches": self._batches if self._epoch == epoch else self.sampler.start,
            **self._order(),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that `state` counts.

        Raises:
            ValueError: if `state` stops inside an epoch whose order this loader cannot repeat.
        """
        saved = {key: state[key] for key in self._order()}
        inside = 0 < state["batches"] < saved["images"] // saved["global_batch"]
        if inside and saved != self._order():
            raise ValueError(
                f"the checkpoint was taken inside an epoch with {saved}, now they are {self._order()}: "
                "resume with the same images, seed and batch_size x processes, or start a new run"
            )
        self.sampler.epoch = self._epoch = state["epoch"]
        self.sampler.start = self._batches = state["batches"]
