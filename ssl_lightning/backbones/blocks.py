"""The blocks of a network of any library: what one means by its first, second, third layer."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import nn

SHARE = 0.9  # of the weights: a part that holds so much is the trunk


def blocks(net: nn.Module, layers: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of the parts that a network is a sequence of: the stages of a ResNet, the blocks of a transformer, the
    convolutions of a VGG.

    They are the children that hold matrices or kernels. If one of them holds nearly all the weights of those that
    have parts themselves, as `features` and `blocks` do in many libraries, its parts stand in its place. A single
    convolution is taken with the norm, the activation and the pooling that follow it.

    Args:
        net: Any network.
        layers: Names of the modules that give one tensor in a forward pass, in the order in which they do so, with
            its shape for one image. Blocks are those of them that give a map or tokens.
    """
    parts = _parts(net, "")
    while True:
        sizes = {name: _weights(part) for name, part in parts.items() if len(_parts(part, name)) > 1}
        trunk = max(sizes, key=lambda name: sizes[name], default="")
        if not sizes or sizes[trunk] < SHARE * sum(sizes.values()):
            break
        parts |= _parts(parts.pop(trunk), trunk)
    ends = {_end(net, name, layers) for name in parts}
    return [name for name, shape in layers.items() if name in ends and len(shape) > 1]


def places(shape: tuple[int, ...]) -> int:
    """How many places the output of a layer has, by its shape for one image: of a map, or of tokens without those that
    are none of them."""
    if len(shape) == 2:
        return math.isqrt(shape[0]) ** 2
    return math.prod(shape) // max(shape)


def is_starved(module: nn.Module, shape: torch.Size) -> bool:
    """Whether a layer brings the places of a map together, as do a 3x3 convolution, a pooling and attention, and is
    given a map, or tokens, of one place.

    Args:
        shape: Of what it is given: (B, C, H, W) or (B, H, W, C) of a map, (B, N, D) of tokens.
    """
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return shape[-2:] == (1, 1) and module.kernel_size not in (1, (1, 1))
    return "Attention" in type(module).__name__ and len(shape) > 2 and math.prod(shape[1:]) == max(shape[1:])


def _weights(module: nn.Module) -> int:
    """Numbers in matrices and kernels: norms, biases and scales have none."""
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)


def _children(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    for key, child in module.named_children():
        path = f"{name}.{key}".lstrip(".")
        if isinstance(child, nn.ModuleList):  # is never called
            yield from _children(child, path)
        else:
            yield path, child


def _parts(module: nn.Module, name: str) -> dict[str, nn.Module]:
    """The children with weights; if there is one only, its parts."""
    parts = {path: child for path, child in _children(module, name) if _weights(child)}
    if len(parts) == 1:
        ((path, child),) = parts.items()
        return _parts(child, path) or parts
    return parts


def _end(net: nn.Module, name: str, layers: Mapping[str, tuple[int, ...]]) -> str:
    """The name itself; of a single layer with weights that of the last one before the next weights."""
    if list(net.get_submodule(name).children()):
        return name
    parent = name.rpartition(".")[0]
    siblings = list(_children(net.get_submodule(parent), parent))
    for sibling, module in siblings[[path for path, _ in siblings].index(name) + 1 :]:
        pools = isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)  # to a vector, as a rule
        if _weights(module) or pools or len(layers.get(sibling, ())) < 2:
            break
        name = sibling
    return name
