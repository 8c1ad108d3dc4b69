"""What the data of every kind share: batches of one size, loaders that end their workers, evaluation where there is
something to ask."""

from abc import ABC
from typing import Any, ClassVar

from lightning.pytorch import LightningDataModule

from datamodules.draws import global_seed
from datamodules.loader import EpochBatches, EvalBatches, Loader, TrainLoader


class Data(LightningDataModule, ABC):
    """Data for representation learning: of images `ImageData`, of text `TextData`.

    Args:
        class_names: Names of the classes; empty without labels.
        batch_size: Samples in a batch of one process.
        num_workers: Processes per loader that read; 0 reads in the training process.
        seed: Decides order and draws; by default the seed of the run (--seed_everything).

    Raises:
        ValueError: if a size is out of range.
    """

    unit: ClassVar[str]  # what a sample is, in the plural

    def __init__(self, class_names: list[str], batch_size: int, num_workers: int, seed: int | None) -> None:
        super().__init__()
        self.seed = global_seed() if seed is None else seed
        self.batch_size, self.num_workers = batch_size, num_workers
        self.class_names = class_names
        self.num_classes = len(class_names) or None
        self._loaders: dict[str, Loader] = {}
        self._limits: dict[str, int | float] = {}
        self._at_least(batch_size=1, num_workers=0, seed=0)

    def _at_least(self, **least: int) -> None:
        for name, limit in least.items():
            if (value := getattr(self, name)) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {value}")

    @property
    def shape(self) -> str:
        """Words for the size of a sample, such as "3 x 32 x 32"."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """
        Raises:
            ValueError: Lightning would replace the order of training.
        """
        if stage == "fit" and self.trainer is not None and (overfit := vars(self.trainer)["overfit_batches"]):
            raise ValueError(
                f"overfit_batches={overfit} would replace the order of training: to overfit, train for "
                "many epochs on a small set"
            )

    def _switch_off_evaluation(self, stage: str) -> None:
        """Lightning warns of an empty list of loaders unless it is not asked for; `teardown` undoes this."""
        if self.trainer is not None:
            limit = f"limit_{'test' if stage == 'test' else 'val'}_batches"
            self._limits.setdefault(limit, getattr(self.trainer, limit))
            setattr(self.trainer, limit, 0)

    def _pin(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _close(self, role: str) -> None:
        if role in self._loaders:
            self._loaders.pop(role).close()

    def _training(self, dataset: Any, batches: EpochBatches) -> TrainLoader:
        self._close("train")
        loader = TrainLoader(dataset, batches, self.num_workers, self._pin())
        self._loaders["train"] = loader
        return loader

    def _evaluation(self, role: str, dataset: Any) -> Loader:
        self._close(role)
        loader = Loader(dataset, EvalBatches(len(dataset), self.batch_size), self.num_workers, self._pin())
        self._loaders[role] = loader
        return loader

    def on_exception(self, exception: BaseException) -> None:
        """Ends the workers: Lightning does not come to `teardown`."""
        for role in list(self._loaders):
            self._close(role)

    def teardown(self, stage: str) -> None:
        while self._limits:
            setattr(self.trainer, *self._limits.popitem())
        for role in list(self._loaders):
            self._close(role)
