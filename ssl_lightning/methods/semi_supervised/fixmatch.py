"""FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence.

Sohn, Berthelot, Li, Zhang, Carlini, Cubuk, Kurakin, Zhang, Raffel, 2020. https://arxiv.org/abs/2001.07685
"""

from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.weight_ema import WeightEMA
from datamodules.batch import ImageBatch
from datamodules.views import FixMatchViews
from ssl_lightning.labelled import LabelledModule
from ssl_lightning.schedules import LRRule, Schedule


class FixMatch(LabelledModule):
    """What the network is sure of on a weak view of an unlabelled image, it learns to say of a strong view.

    The data give ``--data.labels_per_class`` or ``--data.label_fraction`` of their labels; all of their training images
    are the unlabelled ones, and an epoch is a pass over these. A batch has ``--data.batch_size`` labelled images and
    ``unlabelled_ratio`` times as many others. Validation and test take the moving average of the weights, as the paper
    does. Its run: 1,048,576 steps of 64 labelled images, WRN-28-2 (backbone ``wrn28_2``).

    Logs ``train/supervised``, ``train/unsupervised`` and ``train/sure``, the share of the unlabelled images whose
    pseudo-label counts.

    Args:
        threshold: tau: the least probability of a class that makes it a pseudo-label, in [0, 1].
        unlabelled_weight: lambda_u.
        unlabelled_ratio: mu: unlabelled images for each labelled one in a batch.
        ema: Decay of the moving average of the weights, in [0, 1).
        optimizer: See SSLModule.
        lr: For any batch.
        lr_rule: See SSLModule.
        weight_decay: Not of biases and norms; 1e-3 for CIFAR-100.
        decay_norm_and_bias: See SSLModule.
        optimizer_args: None: Nesterov's momentum 0.9 with SGD.
        schedule: cos(7 pi t / 16).
        kwargs: Classes, backbone and optimization, see LabelledModule, ImageModule and SSLModule.

    Raises:
        ValueError: a number out of its range.
    """

    protocol = "fixmatch-v1: own linear layer,moving average"

    def __init__(
        self,
        threshold: float = 0.95,
        unlabelled_weight: float = 1.0,
        unlabelled_ratio: int = 7,
        ema: float = 0.999,
        optimizer: str = "SGD",
        lr: float = 0.03,
        lr_rule: LRRule = "none",
        weight_decay: float = 5e-4,
        decay_norm_and_bias: bool = False,
        optimizer_args: dict[str, Any] | None = None,
        schedule: Schedule = "cosine_7_16",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            lr=lr,
            lr_rule=lr_rule,
            weight_decay=weight_decay,
            decay_norm_and_bias=decay_norm_and_bias,
            optimizer_args={"nesterov": True} if optimizer_args is None and optimizer == "SGD" else optimizer_args,
            schedule=schedule,
            **kwargs,
        )
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        if unlabelled_weight < 0:
            raise ValueError(f"unlabelled_weight must be at least 0, got {unlabelled_weight}")
        if not 0 <= ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {ema}")
        if unlabelled_ratio < 1:
            raise ValueError(f"unlabelled_ratio must be at least 1, got {unlabelled_ratio}: without, take Classifier")
        self.threshold, self.unlabelled_weight, self.unlabelled_ratio = threshold, unlabelled_weight, unlabelled_ratio
        self.ema = ema
        self.classifier = nn.Linear(self.backbone.dim, self.num_classes)

    def default_views(self) -> FixMatchViews:
        return FixMatchViews()

    def configure_callbacks(self) -> list[Callback]:
        return [WeightEMA(self.ema)]

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        weak, strong = batch.views
        both = self.classifier(self.backbone(torch.cat([weak, strong]))).float()  # one pass: one batch norm for all
        weak_logits, strong_logits = both.chunk(2)  # (B + mu B, num_classes)
        unlabelled = batch.label < 0
        probability, pseudo_label = weak_logits.detach().softmax(1).max(1)
        sure = (probability >= self.threshold) & unlabelled
        supervised = F.cross_entropy(weak_logits, batch.label, ignore_index=-1)
        nats = F.cross_entropy(strong_logits, pseudo_label, reduction="none")
        unsupervised = (nats * sure).sum() / unlabelled.sum()
        loss = supervised + self.unlabelled_weight * unsupervised
        share = sure.sum() / unlabelled.sum()
        return {"loss": loss, "supervised": supervised, "unsupervised": unsupervised, "sure": share}
