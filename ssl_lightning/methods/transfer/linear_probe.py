"""The linear probe: how well a linear layer tells the classes by frozen features.

Zhang, Isola, Efros, Colorful Image Colorization, 2016, section 3.2. https://arxiv.org/abs/1603.08511
"""

from typing import Any

from torch import nn

from ssl_lightning.labelled import ProbeModule


class LinearProbe(ProbeModule):
    """A linear layer learns the labels from frozen features of cropped and mirrored images.

    ``LinearEvaluation``, which every ``test`` makes, sees each image once, as it is: it takes seconds, and is a point
    or two lower. Papers on CIFAR train a probe for 100 epochs, on ImageNet for 90 or 100.

    Args:
        norm: Batch norm without scale and shift before the layer, as in MAE: the features of any method then do well
            with the same rate. False: the features as they are, whose best rate lies anywhere from 0.1 to 30.
        optimizer: See SSLModule.
        lr: For a batch of 256.
        weight_decay: None, as in most papers.
        kwargs: Checkpoint, classes, layer and optimization, see TransferModule, ProbeModule and SSLModule.
    """

    def __init__(
        self, norm: bool = True, optimizer: str = "SGD", lr: float = 0.1, weight_decay: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(optimizer=optimizer, lr=lr, weight_decay=weight_decay, **kwargs)
        dim = self.backbone.layer_dim(self.feature_layers[0]) if self.feature_layers else self.backbone.dim
        linear = nn.Linear(dim, self.num_classes)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        self.classifier = nn.Sequential(nn.BatchNorm1d(dim, affine=False, eps=1e-6), linear) if norm else linear
        self.protocol = f"linear-probe-v1: frozen,eval mode,{self.reads}{',batch norm' * norm}"
