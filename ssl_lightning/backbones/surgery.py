"""What is cut out of a library's network and put into it, so that it gives features of the images at hand."""

import math

from timm.models import resnet as timm_resnet
from torch import nn
from torchvision import models


def remove_classifier(net: nn.Module) -> None:
    """Remove a torchvision model's classifier: every layer after the pooling but a normalisation.

    What stays keeps its name, so the state dict is the library's without the classifier's entries. VGG and
    AlexNet flatten a 7x7 or 6x6 map into wide linear layers: those are the classifier, and the map is
    averaged instead.
    """
    if isinstance(net, models.VGG | models.AlexNet):
        net.avgpool = nn.AdaptiveAvgPool2d(1)
    if isinstance(net, models.GoogLeNet | models.Inception3):
        net.dropout = nn.Identity()
    if isinstance(net, models.SqueezeNet):
        net.classifier = nn.AdaptiveAvgPool2d(1)
        return
    name = next(name for name in ("fc", "head", "heads", "classifier") if hasattr(net, name))
    kept = nn.Sequential()
    for child, module in getattr(net, name).named_children():
        if isinstance(module, nn.Linear):
            break
        if not isinstance(module, nn.Dropout):
            kept.add_module(child, module)
    setattr(net, name, kept if len(kept) else nn.Identity())


def replace_first_conv(net: nn.Module, in_channels: int) -> None:
    """Give a network of colour images a first convolution for `in_channels`, freshly drawn.

    Its weights are as wide as those it replaces, scaled by the number of channels: the variance of what it
    puts out stays.
    """
    name, old = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.normal_(new.weight, std=old.weight.std().item() * math.sqrt(old.in_channels / in_channels))
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    net.set_submodule(name, new)


def has_resnet_stem(net: nn.Module) -> bool:
    """Tell whether it is a ResNet of either library that begins with one 7x7 convolution and a max-pool."""
    return isinstance(net, models.ResNet | timm_resnet.ResNet) and isinstance(net.conv1, nn.Conv2d)


def shrink_stem(net: nn.Module) -> None:
    """Make a ResNet's stem that of small images: a 3x3 convolution of stride 1 and no max-pool.

    SimCLR, appendix B.9, for CIFAR-10: a 32-px image leaves the trunk as a map of 4x4, not 1x1.
    """
    old = net.conv1
    assert isinstance(old, nn.Conv2d)
    net.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
