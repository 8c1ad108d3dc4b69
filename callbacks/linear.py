"""Linear evaluation of frozen features, with all learning rates trained together (as Oquab et al., "DINOv2",
2023, https://arxiv.org/abs/2304.07193, section 7.1 does)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.features import Features, FeatureScore, balanced
from callbacks.knn import accuracies

HELD_OUT = 0.2  # of every class of the bank, to choose the rate on
MIN_STEPS = 1000  # a small bank is passed more often
MOMENTUM = 0.9


def fit_linear(x: Tensor, label: Tensor, classes: int, rates: Sequence[float], epochs: int, batch_size: int) -> Tensor:
    """Softmax regression by SGD with momentum from zero, one for each rate; the rates fall by a cosine to 0.

    The gradient is written out: R nets cost two matrix products a step.

    Args:
        x: (N, D) float32.
        label: (N,) int64 class numbers below `classes`.
        classes: C.
        rates: R learning rates.
        epochs: Passes over x.
        batch_size: Rows of a step.

    Returns:
        (D, R, C) weights.
    """
    n, batch_size = len(x), min(batch_size, len(x))
    per_epoch = n // batch_size
    steps = max(epochs * per_epoch, MIN_STEPS)
    rate = x.new_tensor(rates).repeat_interleave(classes)  # (R * C,)
    weight = x.new_zeros(x.shape[1], len(rates) * classes)
    velocity = torch.zeros_like(weight)
    target = F.one_hot(label, classes).to(x.dtype)[:, None]  # (N, 1, C)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(n, generator=generator).to(x.device)
        rows = order[step % per_epoch * batch_size :][:batch_size]
        x_rows = x[rows]
        error = (x_rows @ weight).view(batch_size, len(rates), classes).softmax(2).sub_(target[rows])
        velocity.mul_(MOMENTUM).addmm_(x_rows.T, error.flatten(1), alpha=1 / batch_size)
        weight.sub_(velocity * (rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))))
    return weight.view(-1, len(rates), classes)


class LinearEvaluation(FeatureScore):
    """Accuracy of a linear classifier on the frozen features of unaugmented images.

    Features are standardised by the bank's mean and variance. The learning rate is chosen on a fifth of the
    bank, never on the queries, and the classifier is then trained with it on the whole bank. ``linear_split_top1`` is
    the accuracy on that fifth: to choose a layer or a recipe by, without the queries.

    Args:
        rates: Learning rates to choose from.
        epochs: Passes over the bank; a small bank is passed as often as 1000 steps take.
        batch_size: Images of a step.
        every_n_epochs: Epochs between two scores during `fit`, 0 for none; `validate` and `test` always
            score.
        labels_per_class: Keep only so many bank images of every class, None for all.
        draws: Number of such subsets, over which the mean is taken.
        name: In the metrics' names, such as `test/<name>_top1`; None for "linear".

    Raises:
        ValueError: an argument is out of its range, or no class of the bank has two images.
    """

    kind = "linear"

    def __init__(
        self,
        rates: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3),
        epochs: int = 30,
        batch_size: int = 256,
        every_n_epochs: int = 0,
        labels_per_class: int | None = None,
        draws: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(every_n_epochs, labels_per_class, draws, name)
        if not rates or min(rates) <= 0:
            raise ValueError(f"rates must be one or more numbers above 0, got {list(rates)}")
        if epochs < 1 or batch_size < 1:
            raise ValueError(f"epochs and batch_size must be 1 or more, got {epochs} and {batch_size}")
        if labels_per_class == 1:
            raise ValueError("labels_per_class=1 leaves none to choose the learning rate on: take at least 2")
        self.rates = tuple(rates)
        self.epochs = epochs
        self.batch_size = batch_size

    @property
    def protocol(self) -> str:
        rates = f"{len(self.rates)} rates {min(self.rates):g}-{max(self.rates):g}"
        return (
            f"linear-v1: standardised,SGD,{self.epochs} epochs,B={self.batch_size},{rates} chosen on 20 % of "
            f"the bank,{self.bank_words}"
        )

    def score(self, bank: Features, query: Features) -> dict[str, Tensor | float]:
        classes = int(max(bank.label.max(), query.label.max())) + 1
        mean, variance = bank.features.mean(0), bank.features.var(0, correction=0)
        deviation = (variance + 1e-5 * variance.mean()).clamp(min=1e-12).sqrt()  # a dead feature stays at zero
        x, x_query = (F.pad((f - mean) / deviation, (0, 1), value=1.0) for f in (bank.features, query.features))
        held = torch.zeros(len(x), dtype=torch.bool)
        held[balanced(bank.label, lambda sizes: (HELD_OUT * sizes).ceil().long().minimum(sizes - 1), seed=0)] = True
        if not held.any():
            raise ValueError("no class of the bank has two images, so none can be held out to choose the learning rate")
        held = held.to(x.device)
        weight = fit_linear(x[~held], bank.label[~held], classes, self.rates, self.epochs, self.batch_size)
        logits = torch.einsum("nd,drc->nrc", x[held], weight)
        best = _best(logits, bank.label[held])
        split = (logits[:, best].argmax(1) == bank.label[held]).float().mean()
        weight = fit_linear(x, bank.label, classes, [self.rates[best]], self.epochs, self.batch_size)
        scores = accuracies(x_query @ weight[:, 0], query.label)
        return {**scores, "rate": self.rates[best], "split_top1": split}


def _best(logits: Tensor, label: Tensor) -> int:
    """The rate that is most often right; of equals, that of the lowest cross entropy. logits: (N, R, C)."""
    right = (logits.argmax(2) == label[:, None]).sum(0)
    loss = F.cross_entropy(logits.transpose(1, 2), label[:, None].expand(logits.shape[:2]), reduction="none").mean(0)
    return int(loss.masked_fill(right < right.max(), torch.inf).argmin())
