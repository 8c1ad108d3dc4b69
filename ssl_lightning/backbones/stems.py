"""What a network of photographs has to change for images of 32 or 64 px, so that its last map keeps several places."""

from collections.abc import Callable
from typing import Any, NamedTuple

from timm.models import densenet as timm_densenet
from timm.models import efficientnet, hrnet, mobilenetv3
from timm.models import regnet as timm_regnet
from timm.models import resnet as timm_resnet
from torch import nn
from torchvision import models


class Stem(NamedTuple):
    """The stem of small images of some classes of networks.

    Args:
        classes: Of the networks.
        words: What it is, for a table.
        shrink: Changes such a network.
    """

    classes: tuple[type[nn.Module], ...]
    words: str
    shrink: Callable[[Any], None]


def small_stem(net: nn.Module) -> Stem | None:
    """The stem that the network gets for small images; None: it keeps its own."""
    return next((stem for stem in STEMS if isinstance(net, stem.classes)), None)


def _conv3(old: nn.Conv2d) -> nn.Conv2d:
    """A 3x3 convolution of stride 1 in the place of a larger one."""
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new


def _small(conv: nn.Conv2d) -> nn.Conv2d:
    """A 3x3 convolution keeps its weights and loses its stride; a larger one is replaced."""
    if conv.kernel_size != (3, 3):
        return _conv3(conv)
    conv.stride = (1, 1)
    return conv


def _resnet(net: Any) -> None:
    """SimCLR, appendix B.9, for CIFAR-10: a 32-px image leaves the trunk as a map of 4x4, not 1x1."""
    conv: Any = net.conv1
    if isinstance(conv, nn.Conv2d):
        net.conv1 = _small(conv)
    else:  # three convolutions in place of one
        conv[0] = _small(conv[0])
    net.maxpool = nn.Identity()


def _densenet(net: Any) -> None:
    net.features.conv0 = _small(net.features.conv0)
    net.features.pool0 = nn.Identity()


def _googlenet(net: Any) -> None:
    net.conv1.conv = _small(net.conv1.conv)
    net.maxpool1, net.maxpool2 = nn.Identity(), nn.Identity()


def _shufflenet(net: Any) -> None:
    net.conv1[0] = _small(net.conv1[0])
    net.maxpool = nn.Identity()


def _vgg(net: Any) -> None:
    last = max(i for i, layer in enumerate(net.features) if isinstance(layer, nn.MaxPool2d))
    net.features[last] = nn.Identity()


def _hrnet(net: Any) -> None:
    net.conv1, net.conv2 = _small(net.conv1), _small(net.conv2)


def _first(name: str) -> Callable[[Any], None]:
    """Changes the convolution of this dotted name alone."""

    def shrink(net: Any) -> None:
        net.set_submodule(name, _small(net.get_submodule(name)))

    return shrink


STRIDE_1 = "stride 1"
STEMS = (
    Stem((models.ResNet, timm_resnet.ResNet), "3x3 stride 1, no max-pool", _resnet),
    Stem((models.DenseNet, timm_densenet.DenseNet), "3x3 stride 1, no max-pool", _densenet),
    Stem((models.GoogLeNet,), "3x3 stride 1, no first two max-pools", _googlenet),
    Stem((models.ShuffleNetV2,), "stride 1, no max-pool", _shufflenet),
    Stem((models.AlexNet, models.SqueezeNet), "3x3 stride 1", _first("features.0")),
    Stem((models.VGG,), "no last max-pool", _vgg),
    Stem((hrnet.HighResolutionNet,), "both convolutions stride 1", _hrnet),
    Stem((models.MobileNetV2, models.MobileNetV3, models.EfficientNet), STRIDE_1, _first("features.0.0")),
    Stem((efficientnet.EfficientNet, mobilenetv3.MobileNetV3), STRIDE_1, _first("conv_stem")),
    Stem((models.MNASNet,), STRIDE_1, _first("layers.0")),
    Stem((models.RegNet,), STRIDE_1, _first("stem.0")),
    Stem((timm_regnet.RegNet,), STRIDE_1, _first("stem.conv")),
)
