"""Classifiers on the map of an inner block, as RotNet and AET are measured on CIFAR-10.

Gidaris, Singh, Komodakis, Unsupervised Representation Learning by Predicting Image Rotations, 2018, section 4.1.
https://arxiv.org/abs/1803.07728
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_lightning.backbones.nin import nin_block
from ssl_lightning.heads import mlp
from ssl_lightning.labelled import ProbeModule
from ssl_lightning.schedules import Schedule


class MapProbe(ProbeModule):
    """A small network learns the labels from the map of a frozen block, whose places are not averaged.

    The numbers are those of RotNet's authors for the head ``conv``: 100 epochs. They train ``mlp`` for 50 epochs with
    ``milestones=(0.4, 0.8, 0.9)``. AET's authors train each head for 200 epochs with ``milestones=(0.5, 0.75),
    step_factor=0.1``; what they call non-linear has ``hidden_layers=1``, and they report the best epoch.

    Args:
        head: ``conv``: a block of a Network in Network (a 3x3 and two 1x1 convolutions with batch norm), the mean over
            its places, and a linear layer; ``mlp``: linear layers with batch norm on the flattened map.
        hidden_layers: Of ``mlp``. 0: batch norm of each channel, and a linear layer.
        hidden_dim: Width of the hidden layers, or channels of the convolutions. None: 192 for ``conv``, for ``mlp`` 20
            for each class, at most 2048.
        feature_layer: The block, see ImageModule; 1: the second, as in both papers.
        optimizer: See SSLModule.
        lr: For a batch of 128.
        base_batch_size: 128.
        weight_decay: Of all parameters of the head.
        optimizer_args: None: Nesterov's momentum 0.9 with SGD.
        schedule: See SSLModule.
        milestones: Epochs 35, 70 and 85 of 100.
        step_factor: The rate falls to a fifth at each milestone.
        kwargs: Checkpoint, classes and optimization, see TransferModule and SSLModule.

    Raises:
        ValueError: an unknown head, ``hidden_layers`` below 0, or a layer that has no map.
    """

    def __init__(
        self,
        head: Literal["conv", "mlp"] = "conv",
        hidden_layers: int = 2,
        hidden_dim: int | None = None,
        feature_layer: int | str = 1,
        optimizer: str = "SGD",
        lr: float = 0.1,
        base_batch_size: int = 128,
        weight_decay: float = 5e-4,
        optimizer_args: dict[str, Any] | None = None,
        schedule: Schedule = "step",
        milestones: tuple[float, ...] = (0.35, 0.7, 0.85),
        step_factor: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            feature_layer=feature_layer,
            optimizer=optimizer,
            lr=lr,
            base_batch_size=base_batch_size,
            weight_decay=weight_decay,
            optimizer_args={"nesterov": True} if optimizer_args is None and optimizer == "SGD" else optimizer_args,
            schedule=schedule,
            milestones=milestones,
            step_factor=step_factor,
            **kwargs,
        )
        if head not in ("conv", "mlp"):
            raise ValueError(f"head must be conv or mlp, got {head!r}")
        if hidden_layers < 0:
            raise ValueError(f"hidden_layers must be at least 0, got {hidden_layers}")
        channels, height, width = self.backbone.map_shape(self.feature_layers[0])
        if head == "conv":
            dim = hidden_dim or 192
            block = nin_block(channels, dim, dim, dim, kernel=3)
            layers = [*block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dim, self.num_classes)]
        else:
            dims = [hidden_dim or min(20 * self.num_classes, 2048)] * hidden_layers
            layers = [nn.Flatten(), mlp(channels * height * width, *dims, self.num_classes, norm=True)]
            if hidden_layers == 0:
                layers.insert(0, nn.BatchNorm2d(channels, affine=False))
        self.classifier = nn.Sequential(*layers)
        words = "conv" if head == "conv" else f"mlp with {hidden_layers} hidden layers"
        self.protocol = f"map-probe-v1: frozen,eval mode,{self.reads},{words}"

    @torch.no_grad()
    def representation(self, x: Tensor) -> Tensor:
        """(B, C, H, W)"""
        return self.backbone.layer_map(x, self.feature_layers[0])

    @property
    def reads_features(self) -> bool:
        return False
