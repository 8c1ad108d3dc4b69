"""Supervised classification, the yardstick of the other methods.

Recipe: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, 2015. https://arxiv.org/abs/1512.03385
"""

from typing import Any

from torch import nn

from ssl_lightning.labelled import LabelledModule


class Classifier(LabelledModule):
    """A backbone and a linear layer learn the labels.

    Logs ``val/top1`` and ``test/top1``, the accuracy of its own linear layer on the held-out images.

    Args:
        optimizer: See SSLModule.
        lr: 0.1 for a batch of 256.
        weight_decay: Of all parameters.
        kwargs: Classes, backbone and optimization, see LabelledModule, ImageModule and SSLModule.
    """

    protocol = "classifier-v1: own linear layer"

    def __init__(self, optimizer: str = "SGD", lr: float = 0.1, weight_decay: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(optimizer=optimizer, lr=lr, weight_decay=weight_decay, **kwargs)
        self.classifier = nn.Linear(self.backbone.dim, self.num_classes)
