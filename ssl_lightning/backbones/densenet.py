"""DenseNet-264, which no library has by name.

Gao Huang, Zhuang Liu, Laurens van der Maaten, Kilian Weinberger, Densely Connected Convolutional Networks, 2016,
table 1. https://arxiv.org/abs/1608.06993
"""

from typing import Any

from torchvision.models import DenseNet

from ssl_lightning.backbones import surgery


def densenet264(in_channels: int = 3, **kwargs: Any) -> DenseNet:
    """DenseNet of growth rate 32 with blocks of 6, 12, 64 and 48 layers: torchvision's, without its classifier.

    33,337,704 parameters with a classifier of 1000 classes; 2688 features. timm's densenet264d is another network.
    """
    net = DenseNet(growth_rate=32, block_config=(6, 12, 64, 48), num_init_features=64, **kwargs)
    surgery.remove_classifier(net)
    if in_channels != 3:
        surgery.replace_first_conv(net, in_channels)
    return net
