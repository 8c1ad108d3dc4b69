"""Supervised classification, the yardstick of the other methods.

Recipe: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, 2015. https://arxiv.org/abs/1512.03385
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from datamodules.batch import ImageBatch
from ssl_lightning.base import ImageModule


class Classifier(ImageModule):
    """A backbone and a linear layer learn the labels.

    Logs ``val/top1`` and ``test/top1``, the accuracy of its own linear layer on the held-out images.

    Args:
        num_classes: Number of classes; the command line takes it from the data.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        optimizer: See SSLModule.
        lr: 0.1 for a batch of 256.
        weight_decay: Of all parameters.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: fewer than 2 classes.
    """

    def __init__(
        self,
        num_classes: int,
        label_smoothing: float = 0.0,
        optimizer: str = "SGD",
        lr: float = 0.1,
        weight_decay: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer=optimizer, lr=lr, weight_decay=weight_decay, **kwargs)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.label_smoothing = label_smoothing
        self.classifier = nn.Linear(self.backbone.dim, num_classes)
        self.val_top1 = MulticlassAccuracy(num_classes, average="micro")
        self.test_top1 = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        logits = self.classifier(self.backbone(batch.views[0]))  # (B, num_classes)
        return F.cross_entropy(logits.float(), batch.label, label_smoothing=self.label_smoothing)

    def validation_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self.measure(batch, dataloader_idx, "val/top1", self.val_top1)

    def test_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self.measure(batch, dataloader_idx, "test/top1", self.test_top1)

    def measure(self, batch: ImageBatch, dataloader_idx: int, name: str, top1: MulticlassAccuracy) -> Tensor:
        features = self(batch.views[0])
        if dataloader_idx == 1:  # the queries; 0 is the bank
            top1(self.classifier(features), batch.label)
            self.log(name, top1, on_step=False, on_epoch=True, prog_bar=True, add_dataloader_idx=False)
        return features
