"""features.npz: the features of `predict`."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.features import Features, collect, gather
from callbacks.results import atomic_open


@runtime_checkable
class NamesImages(Protocol):
    """A datamodule that may know the images of `predict` by name, in the order of `index`."""

    @property
    def names(self) -> list[str] | None: ...


class PredictionsFile(Callback):
    """On `predict`, writes the features of all processes to `features.npz` in the run's folder.

    Its arrays: `features` (N, D) float32, `label` (N,) int64, -1 where there is none, `index` (N,) int64
    places in the data set, ascending, and `name` (N,), such as file names, where the datamodule has `names`.
    """

    def __init__(self) -> None:
        self._rows: list[Features] = []

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx > 0:
            raise ValueError("features.npz holds the images of one loader, and predict_dataloader() returned several")
        rows = collect(outputs, batch)
        if "" not in rows:
            raise ValueError(f"features.npz holds the features of one layer, got {', '.join(rows)}: choose one")
        self._rows.append(rows[""])

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = gather(pl_module, self._rows)
        self._rows = []
        if not trainer.is_global_zero:
            return
        arrays = {name: column.cpu().numpy() for name, column in rows._asdict().items()}
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, NamesImages) and data.names is not None:
            arrays["name"] = np.array(data.names)[arrays["index"]]
        path = Path(trainer.default_root_dir, "features.npz")
        with atomic_open(path) as file:
            np.savez(file, **arrays)
        rank_zero_info(f"{len(rows.index)} features of {rows.features.shape[1]} numbers: {path}")
