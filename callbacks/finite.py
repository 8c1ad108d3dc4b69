"""Noticing a loss that is no number."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.checkpoint import describe, last_checkpoint


class FiniteLoss(Callback):
    """Stops a run whose loss, or a term of it, is not finite, within ``log_every_n_steps`` steps, and before weights
    that are not finite are written into a checkpoint.

    The step in which it happened is noted on the device; the host looks at the notes only when metrics are logged,
    and before a checkpoint is written. Steps count as in the logged metrics.
    """

    def __init__(self) -> None:
        self.first_bad: dict[str, Tensor] = {}  # by term: () int64 on the device, -1: none

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, value in outputs.items():
            value = value.detach()
            if name not in self.first_bad:
                self.first_bad[name] = torch.full((), -1, dtype=torch.int64, device=value.device)
            fresh = ~value.isfinite() & (self.first_bad[name] < 0)
            self.first_bad[name].masked_fill_(fresh, trainer.fit_loop.epoch_loop._batches_that_stepped)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if last or (every and (batch_idx + 1) % every == 0):
            self.look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """
        Raises:
            FloatingPointError: a term was not finite, or a weight or buffer is not; names it.
        """
        self.look(trainer)
        state = {n: t for n, t in checkpoint["state_dict"].items() if isinstance(t, Tensor) and t.is_floating_point()}
        finite = torch.stack([t.isfinite().all() for t in state.values()])
        if not trainer.strategy.reduce_boolean_decision(bool(finite.all()), all=True):
            name = list(state)[int(finite.int().argmin())]
            raise FloatingPointError(
                f"{name} is not finite at step {trainer.global_step}: no checkpoint written, "
                f"{describe(last_checkpoint(trainer))}"
            )

    def look(self, trainer: Trainer) -> None:
        """
        Raises:
            FloatingPointError: a term was not finite; names step, term and the checkpoint to go back to.
        """
        # the latest of all processes: all of them have to leave
        steps = {n: int(trainer.strategy.reduce(step, reduce_op="max")) for n, step in self.first_bad.items()}
        terms = " and ".join(f"train/{name} at step {step}" for name, step in steps.items() if step >= 0)
        if terms:
            raise FloatingPointError(
                f"not finite: {terms}; {describe(last_checkpoint(trainer))}. "
                "Lower --model.lr, lengthen --model.warmup_epochs, or clip with --trainer.gradient_clip_val"
            )
