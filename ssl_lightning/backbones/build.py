"""From a name to a backbone."""

import difflib
import re
from collections.abc import Callable
from typing import Any

import timm
from torch import nn
from torchvision import models

from ssl_lightning.backbones import cifar_resnet, stems, surgery, wide_resnet
from ssl_lightning.backbones.backbone import Backbone
from ssl_lightning.backbones.cfn import CFN
from ssl_lightning.backbones.convnet import ConvNet
from ssl_lightning.backbones.dcfnet import DCFNet
from ssl_lightning.backbones.densenet import densenet264
from ssl_lightning.backbones.lenet import LeNet5
from ssl_lightning.backbones.names import SMALL_IMAGE
from ssl_lightning.backbones.nin import nin3, nin4, nin5

OWN: dict[str, Callable[..., nn.Module]] = {
    "cfn": CFN,
    "convnet": ConvNet,
    "dcfnet": DCFNet,
    "densenet264": densenet264,
    "lenet5": LeNet5,
    "nin3": nin3,
    "nin4": nin4,
    "nin5": nin5,
    "resnet20": cifar_resnet.resnet20,
    "resnet32": cifar_resnet.resnet32,
    "resnet56": cifar_resnet.resnet56,
    "resnet110": cifar_resnet.resnet110,
    "wrn28_2": wide_resnet.wrn28_2,
    "wrn28_8": wide_resnet.wrn28_8,
    "wrn28_10": wide_resnet.wrn28_10,
}


def build(
    name: str,
    in_channels: int = 3,
    image_size: int = 224,
    *,
    mean: float | list[float] | None = None,
    std: float | list[float] | None = None,
    small_stem: bool | None = None,
    lightness: bool = False,
    fully_connected: bool = False,
    **kwargs: Any,
) -> Backbone:
    """Build a backbone by name, with random weights and without a classifier.

    Args:
        name: One of our own ("convnet", "resnet20", ...), a classification model of torchvision ("resnet18")
            or a model of timm ("vit_small_patch16_224"; a tag after a dot is allowed, its weights are not
            loaded). A name that several have means the first of these; "torchvision/resnet18" and
            "timm/resnet18" say which.
        in_channels: Channels of an image. With other than 3, the first convolution is replaced by a new one.
        image_size: Height and width of the images in pixels.
        mean: Subtracted from the images, which lie in [0, 1]: one number or one for each channel. By default
            ImageNet's for 3 channels, 0.5 for others.
        std: The images are then divided by it, as `mean`.
        small_stem: Whether the network gets the stem of small images, whose strides are fewer: see `stems`. None:
            it does for images of at most 64 px. False: it stays as the library has it, even where its last layers
            then see a single place.
        lightness: Show the network only the lightness of the RGB images: it is built for one channel, L / 100 of CIE
            Lab, to which mean and std belong.
        fully_connected: Of AlexNet and VGG keep the two hidden layers behind the map, with their dropout: 4096
            features. Without them the map is averaged.
        **kwargs: Go to the library's constructor, such as `patch_size` for a vision transformer.

    Raises:
        ValueError: if no library has the name, its constructor does not take the arguments, or the network
            cannot take images of this size, or makes a single place of them before its last layers.
    """
    library, architecture = _resolve(name)
    channels = 1 if lightness else in_channels
    if library == "ssl_lightning":
        net = _construct(name, OWN[architecture], {"in_channels": channels}, kwargs)
    elif library == "torchvision":
        net = _from_torchvision(name, architecture, channels, image_size, fully_connected, kwargs)
    else:
        net = _from_timm(name, architecture, channels, image_size, kwargs)
    if fully_connected and not isinstance(net, models.AlexNet | models.VGG):
        raise ValueError(f"fully_connected is for AlexNet and VGG of torchvision, not for {name}")
    stem = stems.small_stem(net)
    if small_stem and stem is None:
        raise ValueError(f"small_stem: there is none for {name}")
    small = stem is not None and (image_size <= SMALL_IMAGE if small_stem is None else small_stem)
    if small and stem is not None:
        stem.shrink(net)
    backbone = Backbone(
        net,
        library=library,
        architecture=architecture,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        small_stem=small,
        lightness=lightness,
    )
    if backbone.starved and small_stem is not False:
        more = "" if small or stem is None else ", or small_stem=True"
        raise ValueError(
            f"{name} makes a single place of images of {image_size} px: its layer {backbone.starved} would see nothing "
            f"but that place. Choose a larger image_size{more}, another backbone, or small_stem=False to take it so"
        )
    given = {"mean": mean, "std": std, "small_stem": small_stem, "lightness": lightness or None, **kwargs}
    given |= {"fully_connected": fully_connected or None}
    given = {key: value for key, value in given.items() if value is not None}
    backbone.recipe = {"name": name, "in_channels": in_channels, "image_size": image_size, **given}
    return backbone


def list_backbones() -> list[str]:
    """List every name that `build` takes: our own, torchvision's, then timm's.

    timm's have the prefix where the name alone means another library's.
    """
    first = [*OWN, *_torchvision_names()]
    return first + [f"timm/{name}" if name in first else name for name in timm.list_models()]


def _torchvision_names() -> list[str]:
    return models.list_models(module=models)


def _resolve(name: str) -> tuple[str, str]:
    """Find the library and its name of a backbone."""
    prefix, _, bare = name.rpartition("/")
    if prefix in ("", "ssl_lightning") and bare in OWN:
        return "ssl_lightning", bare
    if prefix in ("", "torchvision") and bare in _torchvision_names():
        return "torchvision", bare
    if prefix in ("", "timm"):
        base, dot, _ = bare.partition(".")
        if base in timm.list_models() and (not dot or bare in timm.list_pretrained(f"{base}.*")):
            return "timm", bare
    known = timm.list_pretrained() if "." in bare else list_backbones()
    close = difflib.get_close_matches(name, known, n=5)
    hint = f"Did you mean {', '.join(close)}? " if close else ""
    raise ValueError(f"unknown backbone {name!r}. {hint}`ssl-lightning backbones` lists names")


def _from_torchvision(
    name: str, architecture: str, in_channels: int, image_size: int, fully_connected: bool, kwargs: dict[str, Any]
) -> nn.Module:
    ours: dict[str, Any] = {"weights": None, "num_classes": 1000}
    if architecture.startswith("vit_"):
        ours["image_size"] = image_size
    elif architecture.startswith("maxvit_"):
        ours["input_size"] = (image_size, image_size)
    elif architecture in ("googlenet", "inception_v3"):
        # init_weights: without it torchvision warns that its default will change.
        ours |= {"aux_logits": False, "init_weights": True}
    net = _construct(name, models.get_model_builder(architecture), ours, kwargs)
    surgery.remove_classifier(net, fully_connected)
    if in_channels != 3:
        surgery.replace_first_conv(net, in_channels)
    return net


def _from_timm(name: str, architecture: str, in_channels: int, image_size: int, kwargs: dict[str, Any]) -> nn.Module:
    ours: dict[str, Any] = {"pretrained": False, "num_classes": 0, "in_chans": in_channels}
    config = timm.get_pretrained_cfg(architecture)
    if config is not None and config.fixed_input_size:  # timm's own sign that the model takes img_size
        ours["img_size"] = image_size
    return _construct(name, lambda **arguments: timm.create_model(architecture, **arguments), ours, kwargs)


def _construct(
    name: str, constructor: Callable[..., nn.Module], ours: dict[str, Any], kwargs: dict[str, Any]
) -> nn.Module:
    """Call the library's constructor; say in the backbone's words what it refuses."""
    if clash := sorted(ours.keys() & kwargs.keys()):
        raise ValueError(f"{', '.join(clash)} of {name} cannot be given: build sets it from its own arguments")
    try:
        return constructor(**ours, **kwargs)
    except TypeError as error:
        refused = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if refused is None:
            raise
        raise ValueError(
            f"{name} does not take {refused[2]!r}: it is no argument of its constructor {refused[1]}"
        ) from error
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"{name} cannot be built with {ours | kwargs}: {error}") from error
