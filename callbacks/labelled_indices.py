"""labelled_indices.json: which labelled images a run with few labels has learned from."""

import json
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.features import is_dry_run
from callbacks.results import atomic_open, labels_in_use


class LabelledIndices(Callback):
    """At the start of `fit`, writes what the datamodule says of its labelled images into the run's folder, from where
    another run can take them. A run that goes on must have the images that it began with."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """
        Raises:
            ValueError: the run goes on with other labelled images.
        """
        if is_dry_run(trainer):
            return
        ours = labels_in_use(trainer)
        path = Path(trainer.default_root_dir, "labelled_indices.json")
        same = True
        if trainer.is_global_zero:
            resumed = trainer.ckpt_path is not None and path.is_file()
            same = not resumed or json.loads(path.read_text()) == ours
            if same and ours is None:
                path.unlink(missing_ok=True)  # of a run that ended before its first checkpoint
            elif same:
                with atomic_open(path) as file:
                    file.write(json.dumps(ours).encode() + b"\n")
        if not trainer.strategy.broadcast(same):
            raise ValueError(
                f"the run began with the labelled images of {path}, and these are others: go on with the seed, "
                "label_fraction, labels_per_class, label_indices and val_size that it began with, or start a new run"
            )
