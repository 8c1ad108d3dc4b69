"""Noticing a loss that is no number."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.checkpoint import describe, last_checkpoint


class FiniteLoss(Callback):
    """Stops a run whose loss, or a term of it, is not finite, within ``log_every_n_steps`` steps.

    The step in which it happened is noted on the device; the host looks at the notes only when metrics are logged.
    """

    def __init__(self) -> None:
        self.first_bad: Tensor | None = None  # (terms,) int64, -1: none

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        values = torch.stack([v.detach().float() for v in outputs.values()])  # (terms,)
        if self.first_bad is None:
            self.first_bad = torch.full_like(values, -1, dtype=torch.int64)
        fresh = ~values.isfinite() & (self.first_bad < 0)
        self.first_bad.masked_fill_(fresh, trainer.fit_loop.total_batch_idx)
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]  # set by a connector
        if (batch_idx + 1) % every == 0 or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.look(trainer, list(outputs))

    def look(self, trainer: Trainer, names: list[str]) -> None:
        """
        Raises:
            FloatingPointError: a term was not finite; names step, term and the checkpoint to go back to.
        """
        assert self.first_bad is not None
        bad = {name: step for name, step in zip(names, self.first_bad.tolist(), strict=True) if step >= 0}
        if bad:
            terms = " and ".join(f"train/{name} at step {step}" for name, step in bad.items())
            raise FloatingPointError(
                f"not finite: {terms}; {describe(last_checkpoint(trainer))}. "
                "Lower --model.lr, lengthen --model.warmup_epochs, or clip with --trainer.gradient_clip_val"
            )
