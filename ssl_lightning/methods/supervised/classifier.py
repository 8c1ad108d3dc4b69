"""Supervised classification, the yardstick of the other methods.

Recipe: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, 2015. https://arxiv.org/abs/1512.03385
Auxiliary classifiers of GoogLeNet: Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich, Going
Deeper with Convolutions, 2014. https://arxiv.org/abs/1409.4842
"""

from typing import Any

from torch import Tensor, nn
from torchvision.models.googlenet import GoogLeNet, InceptionAux

from datamodules.batch import ImageBatch
from ssl_lightning.labelled import SupervisedModule

AUXILIARY = ("inception4a", "inception4d")  # the maps that GoogLeNet's auxiliary classifiers read


class Classifier(SupervisedModule):
    """A backbone and a linear layer learn the labels.

    Logs ``val/top1`` and ``test/top1``, the accuracy of its own linear layer on the held-out images. GoogLeNet has two
    more classifiers in training, on inner maps; ``train/main`` is then the loss of the linear layer.

    Args:
        aux_weight: Weight of each auxiliary loss of GoogLeNet; 0: none. No other network has any.
        optimizer: See SSLModule.
        lr: 0.1 for a batch of 256.
        weight_decay: Of all parameters.
        kwargs: Classes, mixing, backbone and optimization, see SupervisedModule, ImageModule and SSLModule.

    Raises:
        ValueError: a number out of its range.
    """

    protocol = "classifier-v1: own linear layer"

    def __init__(
        self,
        aux_weight: float = 0.3,
        optimizer: str = "SGD",
        lr: float = 0.1,
        weight_decay: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer=optimizer, lr=lr, weight_decay=weight_decay, **kwargs)
        if aux_weight < 0:
            raise ValueError(f"aux_weight must be at least 0, got {aux_weight}")
        self.aux_weight = aux_weight
        self.classifier = nn.Linear(self.backbone.dim, self.num_classes)
        read = AUXILIARY if aux_weight and isinstance(self.backbone.net, GoogLeNet) else ()
        channels = (self.backbone.map_shape(layer)[0] for layer in read)
        self.auxiliary = nn.ModuleList(InceptionAux(c, self.num_classes) for c in channels)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor | dict[str, Tensor]:
        if not self.auxiliary:
            return super().training_step(batch, batch_idx)
        x, target = self.mixed(batch)
        *maps, features = self.backbone.layer_maps(x, [*AUXILIARY, ""]).values()
        main = self.cross_entropy(self.classifier(features), target)
        losses = [self.cross_entropy(head(inner), target) for head, inner in zip(self.auxiliary, maps, strict=True)]
        return {"loss": main + self.aux_weight * sum(losses), "main": main}
