"""Signs of collapse.

The rank: Garrido et al., "RankMe: Assessing the downstream performance of pretrained self-supervised
representations by their rank", 2023, https://arxiv.org/abs/2210.02885. The spread: Chen and He, "Exploring
Simple Siamese Representation Learning", 2021, https://arxiv.org/abs/2011.10566, section 4.1.
"""

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from callbacks.features import Features, FeatureScore

MAX_IMAGES = 10_000  # of the queries: the singular values of more cost minutes on a CPU


def effective_rank(features: Tensor) -> Tensor:
    """RankMe of (N, D) features: exp of the entropy of their singular values over the sum, 1 to min(N, D)."""
    values = torch.linalg.svdvals(features)
    p = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) + 1e-7
    return (-(p * p.log()).sum()).exp()


def spread(features: Tensor) -> Tensor:
    """Mean standard deviation of the L2-normalised (N, D) features times sqrt(D).

    It is 0 if all are equal, 1 if they are uniform on the sphere.
    """
    return F.normalize(features, dim=1).std(0, correction=0).mean() * features.shape[1] ** 0.5


class RankMonitor(FeatureScore):
    """Effective rank and spread of the queries' features; needs no labels, and warns when they collapse.

    Logs `val/<name>_rank`, between 1 and the features' dimension, and `val/<name>_std`, 0 where all images
    have the same feature and 1 where the features are uniform on the sphere. Of more than 10,000 queries the
    first 10,000 are used.

    Args:
        min_rank: Effective rank below which the features count as collapsed.
        min_std: Spread below which the features count as collapsed.
        every_n_epochs: Epochs between two scores during `fit`, 0 for none; `validate` and `test` always
            score.
        name: In the metrics' names; None for "feature".
    """

    kind = "feature"
    needs_labels = False
    progress_bar = ()

    def __init__(
        self, min_rank: float = 1.5, min_std: float = 0.02, every_n_epochs: int = 1, name: str | None = None
    ) -> None:
        super().__init__(every_n_epochs, name=name)
        self.min_rank = min_rank
        self.min_std = min_std
        self._collapsed: set[str] = set()  # layers

    @property
    def protocol(self) -> str:
        return f"rank-v1: RankMe,std of L2-normalised times sqrt(D),at most {MAX_IMAGES} queries,eval mode"

    def score(self, bank: Features, query: Features) -> dict[str, Tensor | float]:
        features = query.features[:MAX_IMAGES]
        rank, std = effective_rank(features), spread(features)
        collapsed = bool((rank < self.min_rank) | (std < self.min_std))
        if collapsed and self.layer not in self._collapsed:  # once for each collapse
            of = f" of {self.layer}" * bool(self.layer)
            rank_zero_warn(
                f"the features{of} have collapsed: effective rank {rank:.2f} of {features.shape[1]} (alarm below "
                f"{self.min_rank:g}), std {std:.3f} of 1 (alarm below {self.min_std:g}): images are hardly "
                "told apart. Lower the learning rate, and compare warm-up, momentum and batch with the paper"
            )
        (self._collapsed.add if collapsed else self._collapsed.discard)(self.layer)
        return {"rank": rank, "std": std}
