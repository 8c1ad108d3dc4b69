"""Unsupervised Deep Tracking.

Wang, Song, Ma, Zhou, Liu, Li, 2019. https://arxiv.org/abs/1904.01828
And, of several trajectories: Wang, Zhou, Song, Ma, Liu, Li, Unsupervised Deep Representation Learning for Real-Time
Tracking, 2020. https://arxiv.org/abs/2007.11984
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from datamodules.batch import VideoBatch
from ssl_lightning.correlation_filter import peak
from ssl_lightning.distributed import gather_rows
from ssl_lightning.siamese import SiameseModule


def cost_sensitive(errors: Tensor, motion: Tensor, drop: float) -> Tensor:
    """Weights of samples, of mean 1 over all processes: in proportion to how much each moved, none for those with the
    largest errors. Section 3.3, equations 6 to 8 of the paper.

    Args:
        errors: (B,) float, of the cycle.
        motion: (B,) float, at least 0.
        drop: The share of samples that get no weight.

    Returns:
        (B,) float32 without gradient.
    """
    mine = torch.stack([errors.detach().float(), motion.detach().float()], 1)  # (B, 2)
    everyone = gather_rows(mine)
    kept = round((1 - drop) * len(everyone))
    largest = everyone[:, 0].sort().values[kept - 1]
    weights = torch.where(everyone[:, 0] <= largest, everyone[:, 1], 0.0)
    mean = weights.mean().clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(mine[:, 0] <= largest, mine[:, 1], 0.0) / mean


class UDT(SiameseModule):
    """Follow a target forwards through a video and backwards again: the way back has to end where it began.

    Of the frames T, S1, S2, ... a filter fitted to each answers in the next one, where the largest answer is taken for
    the target's place. The filter fitted to the last one at this place then answers in T, and its answer is compared
    with the label that T began with. Only that last step has a gradient. The network has the two layers of DCFNet.

    Args:
        frames: T and those that are searched: 3 as in the paper, 2 for its basic form, 4 in the later one.
        multi_trajectory: Whether there is a way back from each frame that is searched, and a loss for each, as in the
            later paper; otherwise from the last one.
        drop: Share of the samples of a batch, those with the largest errors, that is left out; the later paper has 0.2.
        weigh_motion: Whether samples count as much as they moved.
        kwargs: Filter, tracker, backbone and optimization, see SiameseModule.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        frames: int = 3,
        multi_trajectory: bool = False,
        drop: float = 0.1,
        weigh_motion: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if frames < 2:
            raise ValueError(f"frames must be at least 2, got {frames}")
        if not 0 <= drop < 1:
            raise ValueError(f"drop must lie in [0, 1), got {drop}")
        self.frames, self.drop, self.weigh_motion = frames, drop, weigh_motion  # type: ignore[misc]
        self.ends = range(1, frames) if multi_trajectory else [frames - 1]

    def training_step(self, batch: VideoBatch, batch_idx: int) -> dict[str, Tensor]:
        maps = []
        for number, frame in enumerate(batch.frames.unbind(1)):
            with torch.set_grad_enabled(number == 0 or number in self.ends):
                maps.append(self.inner_maps(frame))
        label = self.label(torch.zeros(len(batch.frames), 2, device=self.device))
        wanted, answers, losses, errors = label, [label], [], []
        for number in range(1, self.frames):
            with torch.no_grad():
                answers.append(self.answer(maps[number - 1], maps[number], wanted))
                wanted = self.label(peak(answers[-1]))
            if number in self.ends:
                back = self.answer(maps[number], maps[0], wanted)
                error = (back - label).square()
                motion = sum((a - b).square().sum((1, 2)) for a, b in itertools.pairwise(answers))
                assert isinstance(motion, Tensor)
                errors.append(error.sum((1, 2)))
                weights = cost_sensitive(
                    errors[-1], motion if self.weigh_motion else torch.ones_like(motion), self.drop
                )
                losses.append((weights * (label.exp() * error).sum((1, 2))).mean())
        return {"loss": torch.stack(losses).sum(), "cycle_error": torch.stack(errors).mean()}
