"""Features of the bank and of the queries, gathered once for every callback that measures them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, distributed


class Features(NamedTuple):
    """N images as the model sees them.

    Args:
        features: (N, D) float32, as the model returns them.
        label: (N,) int64 class numbers, -1 where there is none.
        index: (N,) int64 places in the data set.
    """

    features: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name

    def take(self, rows: Tensor) -> "Features":
        """The given rows: a bool mask (N,) or int64 places."""
        rows = rows.to(self.label.device)
        return Features(self.features[rows], self.label[rows], self.index[rows])


def collect(outputs: Any, batch: Any) -> dict[str, Features]:
    """One batch's rows by layer, "" for a step that returns one tensor.

    Raises:
        ValueError: the step returned something else than (B, D) features, or such features by layer.
    """
    by_layer = outputs if isinstance(outputs, dict) else {"": outputs}
    for layer, features in by_layer.items():
        if not isinstance(features, Tensor) or features.shape[:-1] != batch.label.shape:
            got = str(tuple(features.shape)) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"the evaluation step must return features (B, D) with B = {len(batch.label)}, or a dict of such by "
                f"layer, got {got}{f' for {layer!r}' * bool(layer)}: return self(batch.views[0]), or leave out the "
                "callbacks that measure features"
            )
    device = next(iter(by_layer.values())).device
    label, index = batch.label.to(device), batch.index.to(device)
    return {layer: Features(features.detach().float(), label, index) for layer, features in by_layer.items()}


def gather(pl_module: LightningModule, rows: list[Features]) -> Features:
    """The rows of all processes, each image once, in the order of `index`: equal on any number of processes.

    Args:
        pl_module: The model, attached to a trainer.
        rows: This process's batches; their number and sizes may differ between processes.
    """
    if rows:
        mine = Features(*(torch.cat(column) for column in zip(*rows, strict=True)))
    else:
        none = torch.zeros(0, dtype=torch.int64, device=pl_module.device)
        mine = Features(torch.zeros(0, 0, device=pl_module.device), none, none)
    if pl_module.trainer.world_size > 1:
        shape = torch.tensor(mine.features.shape, device=pl_module.device)
        counts, dims = torch.stack(all_gather(shape)).T.tolist()
        if not rows:  # this process had no image: its width is the others'
            mine = mine._replace(features=mine.features.new_zeros(0, max(dims)))
        mine = Features(*(_gather_rows(column, counts) for column in mine))
    order = mine.index.argsort(stable=True)
    in_order = mine.index[order]
    repeated = torch.zeros_like(order, dtype=torch.bool)
    repeated[1:] = in_order[1:] == in_order[:-1]  # by a sampler that pads, or for an image that cannot be read
    return mine.take(order[~repeated])


def all_gather(x: Tensor) -> list[Tensor]:
    """Every process's `x`, which has the same shape on all; Lightning's own calls what torch deprecates."""
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x)
    return parts


def _gather_rows(x: Tensor, counts: list[int]) -> Tensor:
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    return torch.cat([part[:n] for part, n in zip(all_gather(padded), counts, strict=True)])


def balanced(label: Tensor, count: Callable[[Tensor], Tensor], seed: int) -> Tensor:
    """Places (M,) of a class-balanced subset, drawn with `seed`, in ascending order, on the CPU.

    Args:
        label: (N,) int64 class numbers, none negative.
        count: Of the classes' sizes (C,), how many to take of each; where that is more than there are, all.
        seed: Of a generator of its own: the global ones stay as they are.
    """
    label = label.cpu()
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    order = order[label[order].argsort(stable=True)]  # class after class, each in random order
    sizes = label.bincount()
    place = torch.arange(len(label)) - (sizes.cumsum(0) - sizes)[label[order]]  # 0, 1, ... within the class
    return order[place < count(sizes)[label[order]]].sort().values


def is_dry_run(trainer: Trainer) -> bool:
    """Under fast_dev_run the numbers would mean nothing."""
    return bool(vars(trainer)["fast_dev_run"])


def feature_callbacks(trainer: Trainer) -> list["FeatureCallback"]:
    """The trainer's callbacks that measure features, in their order."""
    return [c for c in vars(trainer)["callbacks"] if isinstance(c, FeatureCallback)]


class FeatureCallback(Callback, ABC):
    """Hands the features of the bank (evaluation loader 0) and of the queries (loader 1) to `on_features`; further
    loaders are the method's own.

    They are what `validation_step` and `test_step` return: a tensor (B, D), or a dict of such tensors by layer, each
    of which is then measured. However many of these callbacks a trainer has, the first one keeps and gathers the
    features for all: on every process those of all images and all layers at once, 4 bytes a number, until the end of
    the evaluation. The global random generators are left alone, so that how often one evaluates does not change the
    trained weights.

    Args:
        every_n_epochs: Epochs between two evaluations during `fit`, 0 for none; `validate` and `test` always
            evaluate.
    """

    needs_labels = True

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs must be 0 (never during fit) or more, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs
        self.layer = ""
        self.rows: dict[int, dict[str, list[Features]]] = {}
        self._gathered: dict[str, list[Features]] = {}
        self._said_off = False

    @abstractmethod
    def on_features(self, trainer: Trainer, pl_module: LightningModule, bank: Features, query: Features) -> None:
        """Called on every process with the same features, those of `self.layer`."""

    def first(self, trainer: Trainer) -> "FeatureCallback":
        """The callback that keeps the features for all: its `rows` hold this process's batches by loader and layer."""
        return feature_callbacks(trainer)[0]

    def is_due(self, trainer: Trainer) -> bool:
        """Whether this evaluation counts: not in the sanity check, not under fast_dev_run."""
        if trainer.sanity_checking or is_dry_run(trainer):
            return False
        if trainer.state.fn != TrainerFn.FITTING:
            return True
        return self.every_n_epochs > 0 and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        flag = "limit_test_batches" if stage == "test" else "limit_val_batches"
        limit = trainer.limit_test_batches if stage == "test" else trainer.limit_val_batches
        cut = limit > 0 if isinstance(limit, int) else 0 < limit < 1
        unused = stage == "predict" or (stage == "fit" and self.every_n_epochs == 0) or is_dry_run(trainer)
        if cut and not unused:
            raise ValueError(
                f"{flag}={limit} would cut the bank and the queries of {type(self).__name__}, and its number "
                f"would mean something else: leave {flag} at 1.0 (0 switches evaluation off), and bound the "
                "cost with every_n_epochs"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_epochs > 0 and not is_dry_run(trainer) and not any(trainer.num_val_batches):
            self._say_off("there are no validation data")

    def _on_start(self) -> None:
        self.rows, self._gathered = {}, {}

    def _on_batch(self, trainer: Trainer, outputs: Any, batch: Any, loader: int) -> None:
        everyone = feature_callbacks(trainer)
        if loader < 2 and outputs is not None and self is everyone[0] and any(c.is_due(trainer) for c in everyone):
            for layer, rows in collect(outputs, batch).items():
                self.rows.setdefault(loader, {}).setdefault(layer, []).append(rows)

    def _on_end(self, trainer: Trainer, pl_module: LightningModule, loaders: int) -> None:
        if not self.is_due(trainer):
            return
        if loaders < 2:
            return self._say_off(f"it takes two evaluation loaders, the bank and the queries, and there are {loaders}")
        keeper = self.first(trainer)
        if not keeper._gathered:
            keeper._gather(trainer, pl_module)
        for self.layer, (bank, query) in keeper._gathered.items():
            if self.needs_labels:
                bank, query = bank.take(bank.label >= 0), query.take(query.label >= 0)
            for name, rows in (("bank", bank), ("query set", query)):
                if not len(rows.label):
                    return self._say_off(f"the {name} has no {'labelled ' * self.needs_labels}images")
            self.on_features(trainer, pl_module, bank, query)

    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # the first process has an image if any has, so it knows the layers
        layers = trainer.strategy.broadcast(list({layer: None for of in self.rows.values() for layer in of}))
        for layer in layers:
            mine = [self.rows.setdefault(loader, {}).setdefault(layer, []) for loader in (0, 1)]
            self._gathered[layer] = [gather(pl_module, rows) for rows in mine]
            for rows in mine:  # which images this process served is all that is still needed
                rows[:] = [batch._replace(features=batch.features.new_zeros(len(batch.label), 0)) for batch in rows]

    def _say_off(self, reason: str) -> None:
        if not self._said_off:
            rank_zero_info(f"{type(self).__name__} is off: {reason}")
        self._said_off = True

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._on_start()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._on_batch(trainer, outputs, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._on_end(trainer, pl_module, len(trainer.num_val_batches))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._on_end(trainer, pl_module, len(trainer.num_test_batches))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._on_start()  # frees the memory

    # the loaders and the outputs of `test` are of the same kind
    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end


def feature_scores(trainer: Trainer) -> list["FeatureScore"]:
    """The trainer's callbacks that give a number, in their order."""
    return [c for c in feature_callbacks(trainer) if isinstance(c, FeatureScore)]


class FeatureScore(FeatureCallback):
    """A number for the features: logs `val/<name>_<key>` or `test/<name>_<key>` for every key of `score`, followed by
    `/<layer>` where the evaluation step returns features by layer.

    A subclass sets `kind`, its name unless another is given, and `progress_bar`, the keys shown there.

    Args:
        every_n_epochs: Epochs between two scores during `fit`, 0 for none; `validate` and `test` always
            score.
        labels_per_class: Keep only so many labelled bank images of every class (all of a class that has
            fewer): how good the features are with few labels, or a cheaper score. None keeps the whole bank.
        draws: Number of subsets of `labels_per_class` images that are scored; their mean is logged, and their
            standard deviation as `<key>_std`. The subsets are the same in every run.
        name: In the metrics' names; None for the kind of score, with the number of labels where it is set.

    Raises:
        ValueError: an argument is out of its range, or two scores of a trainer have the same name.
    """

    kind: str
    progress_bar: tuple[str, ...] = ("top1",)

    def __init__(
        self,
        every_n_epochs: int = 1,
        labels_per_class: int | None = None,
        draws: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(every_n_epochs)
        if labels_per_class is not None and labels_per_class < 1:
            raise ValueError(f"labels_per_class must be 1 or more, or None for the whole bank, got {labels_per_class}")
        if draws < 1 or (draws > 1 and labels_per_class is None):
            raise ValueError(f"draws must be 1, or more together with labels_per_class, got {draws}")
        self.labels_per_class = labels_per_class
        self.draws = draws
        self.name = name or self.kind + (f"_{labels_per_class}_labels" if labels_per_class else "")

    @abstractmethod
    def score(self, bank: Features, query: Features) -> dict[str, Tensor | float]:
        """The numbers by key, from rows that all have labels where `needs_labels`. Runs without gradients."""

    @property
    @abstractmethod
    def protocol(self) -> str:
        """What the number means: two runs are comparable where this is equal."""

    @property
    def bank_words(self) -> str:
        """The end of `protocol`: which part of the bank is used."""
        if self.labels_per_class is None:
            return "full bank,eval mode"
        return f"{self.labels_per_class} labels a class,mean of {self.draws},eval mode"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if [c.name for c in feature_scores(trainer)].count(self.name) > 1:
            raise ValueError(f"two scores are named {self.name!r}: give one of them another name=")

    def on_features(self, trainer: Trainer, pl_module: LightningModule, bank: Features, query: Features) -> None:
        if self.labels_per_class is None:
            scores = self.score(bank, query)
        else:
            scores = self._mean_over_draws(bank, query, self.labels_per_class)
        stage = "test" if trainer.testing else "val"
        for key, value in scores.items():
            pl_module.log(
                f"{stage}/{self.name}_{key}" + f"/{self.layer}" * bool(self.layer),
                value,
                prog_bar=key in self.progress_bar and not self.layer,
                add_dataloader_idx=False,
                batch_size=1,
                sync_dist=True,  # already the same on all, up to the order of a GPU's sums
            )

    def _mean_over_draws(self, bank: Features, query: Features, labels: int) -> dict[str, Tensor | float]:
        subsets = [balanced(bank.label, lambda sizes: torch.full_like(sizes, labels), d) for d in range(self.draws)]
        draws = [self.score(bank.take(rows), query) for rows in subsets]
        scores: dict[str, Tensor | float] = {}
        for key in draws[0]:
            values = torch.tensor([float(draw[key]) for draw in draws])
            scores[key] = values.mean()
            if self.draws > 1:
                scores[f"{key}_std"] = values.std()
        return scores
