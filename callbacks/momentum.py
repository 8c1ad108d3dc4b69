"""The moving average that makes a teacher of a student."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn


def refuse_low_precision(tensors: Iterable[Tensor]) -> None:
    """
    Raises:
        ValueError: a tensor that is to be averaged has 16 bits.
    """
    low = next((t.dtype for t in tensors if t.dtype in (torch.float16, torch.bfloat16)), None)
    if low:
        raise ValueError(
            f"a moving average in {low} loses its small steps: keep the weights in float32, "
            "with --trainer.precision bf16-mixed or 32-true"
        )


class MomentumUpdate(Callback):
    """After each optimizer step ``teacher = m teacher + (1 - m) student``, for parameters, not for buffers.

    A step that was not taken (gradients still accumulate, or mixed precision skipped it) moves nothing; nor does
    evaluation. The momentum m is ``base`` throughout, or rises along half a cosine to ``final`` (BYOL, section 3.3).

    Args:
        pairs: (student, teacher) modules with equal parameters.
        base: Momentum at the start, in [0, 1].
        final: Momentum at the end of the run, in [base, 1]; None: ``base``.

    Raises:
        ValueError: a momentum out of its range, or teachers not kept in float32, where small steps would be lost.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Module, nn.Module]], base: float, final: float | None = None) -> None:
        final = base if final is None else final
        if not 0 <= base <= final <= 1:
            raise ValueError(f"momentum must lie in [0, 1] and not fall, got {base} (at the end {final})")
        self.pairs, self.base, self.final = pairs, base, final
        self.steps = 0

    def momentum(self, total: float) -> float:
        """The momentum of the next update in a run of ``total`` optimizer steps."""
        if self.final == self.base:
            return self.base
        return self.final - (self.final - self.base) * (1 + math.cos(math.pi * self.steps / total)) / 2

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        students: list[Tensor] = [p for student, _ in self.pairs for p in student.parameters()]
        teachers: list[Tensor] = [p for _, teacher in self.pairs for p in teacher.parameters()]
        refuse_low_precision(teachers)
        total = trainer.estimated_stepping_batches

        @torch.no_grad()
        def update(*_: Any) -> None:
            torch._foreach_lerp_(teachers, students, 1 - self.momentum(total))
            self.steps += 1

        # the one hook that fires exactly when the weights have moved
        trainer.optimizers[0].register_step_post_hook(update)

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.steps = state_dict["steps"]
