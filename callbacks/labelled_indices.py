"""labelled_indices.json: which labelled images a run with few labels has learned from."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.features import is_dry_run
from callbacks.results import atomic_open, labels_in_use


class LabelledIndices(Callback):
    """At the start of `fit`, writes what the datamodule says of its labelled images into the run's folder, from where
    another run can take them. A run that goes on must have the images that it began with."""

    began: str | None = None  # a checksum, of a run that goes on

    def state_dict(self) -> dict[str, Any]:
        return {"began": self.began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.began = state_dict["began"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """
        Raises:
            ValueError: the run goes on with other labelled images.
        """
        if is_dry_run(trainer):
            return
        ours = labels_in_use(trainer)
        path = Path(trainer.default_root_dir, "labelled_indices.json")
        content = json.dumps(ours).encode() + b"\n"
        checksum = sha256(content).hexdigest()
        if trainer.ckpt_path is not None and self.began not in (None, checksum):
            raise ValueError(
                f"{trainer.ckpt_path} has learned from other labelled images: go on with the seed, label_fraction, "
                "labels_per_class, label_indices and val_size that it began with, or start a new run"
            )
        self.began = checksum
        if trainer.is_global_zero and ours is None:
            path.unlink(missing_ok=True)  # of a run that ended before its first checkpoint
        elif trainer.is_global_zero:
            with atomic_open(path) as file:
                file.write(content)
