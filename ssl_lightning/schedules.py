"""Learning rates over a run, as factors of the base rate."""

import math
from typing import Literal

Schedule = Literal["cosine", "step", "linear", "constant", "inverse_sqrt", "exponential", "cosine_7_16"]
ENDLESS = ("constant", "inverse_sqrt")  # which need not know when the run ends
LRRule = Literal["linear", "sqrt", "none"]


def scaled_lr(lr: float, rule: LRRule, batch: int, base_batch: int) -> float:
    """The rate for a global batch of ``batch`` images, when ``lr`` suits ``base_batch`` images.

    Linear: Goyal et al. 2017, section 2.1. Square root: You et al. 2017; SimCLR, appendix B.1.
    """
    ratio = batch / base_batch
    return lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]


def lr_factor(
    step: int,
    total: float,
    warmup: int,
    schedule: Schedule,
    milestones: tuple[float, ...] = (),
    step_factor: float = 0.1,
) -> float:
    """The factor of the base rate at optimizer step ``step`` (0 ... total - 1).

    Args:
        step: Optimizer steps already made.
        total: Optimizer steps of the whole run.
        warmup: Steps in which the factor rises in a line from 1 / warmup to 1.
        schedule: ``cosine`` and ``linear`` fall to 0 at ``total``; ``step`` multiplies at each milestone;
            ``inverse_sqrt`` falls as sqrt(warmup / (step + 1)): Vaswani et al. 2017, equation 3; ``exponential`` falls
            by equal ratios to ``step_factor`` at ``total``; ``cosine_7_16`` falls as cos(7 pi t / 16) to 0.195:
            Sohn et al. 2020, section 2.4.
        milestones: Fractions of the run in (0, 1), for ``step``.
        step_factor: What ``step`` multiplies by; where ``exponential`` ends.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if schedule == "cosine_7_16":
        return math.cos(7 * math.pi * progress / 16)
    if schedule == "linear":
        return 1 - progress
    if schedule == "step":
        return step_factor ** sum(step >= m * total for m in milestones)
    if schedule == "exponential":
        return step_factor**progress
    if schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / (step + 1))
    return 1.0
