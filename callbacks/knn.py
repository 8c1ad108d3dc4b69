"""Weighted nearest neighbours (Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", 2018, https://arxiv.org/abs/1805.01978, section 3.4)."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from callbacks.features import Features, FeatureScore

BLOCK = 2**25  # similarities held at once: 128 MiB


def neighbours(bank: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities and places in the bank of the k nearest, nearest first, each (Q, k).

    Args:
        bank: (N, D) float32.
        query: (Q, D) float32.
        k: At most N.
    """
    bank = F.normalize(bank, dim=1)
    blocks = F.normalize(query, dim=1).split(max(1, BLOCK // len(bank)))
    nearest = [(block @ bank.T).topk(k) for block in blocks]
    return torch.cat([n.values for n in nearest]), torch.cat([n.indices for n in nearest])


def accuracies(votes: Tensor, label: Tensor) -> dict[str, Tensor | float]:
    """Share of rows whose label is the first (`top1`) or, from six classes on, among the first five (`top5`).

    Args:
        votes: (Q, C) higher for likelier classes, -inf for one that must not count.
        label: (Q,) int64 class numbers below C.
    """
    ks = (1, 5) if votes.shape[1] > 5 else (1,)
    best = votes.topk(max(ks))
    hit = (best.indices == label[:, None]) & (best.values > -torch.inf)
    return {f"top{k}": hit[:, :k].any(1).float().mean() for k in ks}


class KNNMonitor(FeatureScore):
    """Accuracy of a vote of the k nearest bank images by cosine, each weighing exp(similarity / temperature).

    Args:
        k: Number of neighbours that vote, at most the size of the bank.
        temperature: Softness of the votes: the lower, the more the nearest decides.
        every_n_epochs: Epochs between two scores during `fit`, 0 for none; `validate` and `test` always
            score.
        labels_per_class: Keep only so many bank images of every class, None for all.
        draws: Number of such subsets, over which the mean is taken.
        name: In the metrics' names, such as `val/<name>_top1`; None for "knn".

    Raises:
        ValueError: an argument is out of its range, or the bank has fewer than `k` labelled images.
    """

    kind = "knn"

    def __init__(
        self,
        k: int = 20,
        temperature: float = 0.07,
        every_n_epochs: int = 1,
        labels_per_class: int | None = None,
        draws: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(every_n_epochs, labels_per_class, draws, name)
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.k = k
        self.temperature = temperature

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        loaders = trainer.val_dataloaders
        if self.every_n_epochs > 0 and isinstance(loaders, list) and len(loaders) == 2:
            self.check(len(loaders[0].dataset))

    def check(self, bank: int) -> None:
        """
        Raises:
            ValueError: `bank` images are fewer than k.
        """
        if self.k > bank:
            raise ValueError(f"k={self.k} neighbours of a bank of {bank} images: set --knn.k to at most that")

    @property
    def protocol(self) -> str:
        return f"knn-v1: k={self.k},T={self.temperature:g},{self.bank_words}"

    def score(self, bank: Features, query: Features) -> dict[str, Tensor | float]:
        self.check(len(bank.label))
        similarity, place = neighbours(bank.features, query.features, self.k)
        weight = (similarity / self.temperature).softmax(1)  # the vote over its sum: exp alone overflows at a small T
        classes = int(max(bank.label.max(), query.label.max())) + 1
        votes = weight.new_zeros(len(weight), classes).scatter_add_(1, bank.label[place], weight)
        return accuracies(votes.masked_fill(votes == 0, -torch.inf), query.label)
