"""What is cut out of a library's network and put into it, so that it gives features of the images at hand."""

import math

from torch import nn
from torchvision import models


def remove_classifier(net: nn.Module, fully_connected: bool = False) -> None:
    """Remove a torchvision model's classifier: every layer after the pooling but a normalisation.

    What stays keeps its name, so the state dict is the library's without the classifier's entries. VGG and
    AlexNet flatten a 7x7 or 6x6 map into wide linear layers: those are the classifier, and the map is
    averaged instead, but with `fully_connected` only the last of them goes.
    """
    if isinstance(net, models.VGG | models.AlexNet):
        if fully_connected:
            net.classifier[-1] = nn.Identity()
            return
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
