"""The one form in which methods see a backbone: images in [0, 1] in, one feature vector an image out."""

import difflib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models import VisionTransformer

from ssl_lightning.backbones.blocks import blocks, is_starved, places
from ssl_lightning.lab import lightness

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A library's network without its classifier, with the normalisation of its input inside.

    mean and std are buffers, so they travel in the state dict and a checkpoint needs no side knowledge.

    Args:
        net: Takes normalised images (B, C, H, W), or (B, 1, H, W) for `lightness`; gives features (B, D). It is kept
            as `net`, with the library's own parameter names.
        library: "torchvision", "timm" or "ssl_lightning".
        architecture: The library's name of the network, such as "resnet18".
        in_channels: Channels C of an image.
        image_size: Height and width of the images in pixels, for which the network is checked.
        mean: What is subtracted from each channel of images in [0, 1]: one number or C of them. The default
            is ImageNet's for 3 channels and 0.5 for any other number.
        std: What each channel is then divided by, as `mean`. With 0.5 and 0.5 the input lies in [-1, 1].
        small_stem: Whether the stem has been made that of small images.
        lightness: Whether the net sees of an RGB image only L / 100 of CIE Lab, to which mean and std then belong.

    Attributes:
        dim: The number of features D.
        name: Library and architecture, such as "torchvision/resnet18": `build` takes it.
        recipe: The arguments with which `build` made it, plain values.
        layers: The layers inside of `net` whose output can be had, by their dotted names, with the shape of that
            output for one image: (C, H, W) or (H, W, C) of a map, (N, D) of tokens, (D,) of a vector.
        starved: The first layer that brings the places of a map together and is given one place only; None: there is
            no such layer.

    Raises:
        ValueError: if the network cannot take images of this size, does not give (B, D), or mean and std do
            not fit.
    """

    mean: Tensor
    std: Tensor
    recipe: dict[str, Any]

    def __init__(
        self,
        net: nn.Module,
        *,
        library: str,
        architecture: str,
        in_channels: int,
        image_size: int,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        small_stem: bool = False,
        lightness: bool = False,
    ) -> None:
        super().__init__()
        self.library = library
        self.architecture = architecture
        self.name = f"{library}/{architecture}"
        self.in_channels = in_channels
        self.image_size = image_size
        self.small_stem = small_stem
        self.lightness = lightness
        if lightness and in_channels != 3:
            raise ValueError(f"lightness is that of images with 3 channels, not {in_channels}")
        channels = 1 if lightness else in_channels
        self.register_buffer("mean", _per_channel("mean", mean, IMAGENET_MEAN if channels == 3 else 0.5, channels))
        self.register_buffer("std", _per_channel("std", std, IMAGENET_STD if channels == 3 else 0.5, channels))
        if (self.std <= 0).any():
            raise ValueError(f"std must be above 0 in every channel, got {std}")
        self.net = net
        self.dim, self.layers, self.starved = self._trace()

    def forward(self, x: Tensor) -> Tensor:
        """Give the features.

        Args:
            x: (B, C, H, W) float in [0, 1].

        Returns:
            (B, dim) float.
        """
        x = self.normalise(x)
        return self.net(x.contiguous(memory_format=torch.channels_last))  # the layout convolutions are fastest in

    def normalise(self, x: Tensor) -> Tensor:
        """What `net` takes of images (B, C, H, W) float in [0, 1]."""
        if self.lightness:
            x = lightness(x) / 100
        return (x - self.mean) / self.std

    def blocks(self) -> list[str]:
        """Names of the layers that `net` is a sequence of: what an index of a layer counts."""
        return self._blocks

    def block_of(self, parameter: str) -> int:
        """How many blocks have begun and ended before a parameter of `net`, by its dotted name there, is used.

        0: in the first block, or a token or position that it begins with; the number of blocks: behind the last one.
        """
        known, order = self.blocks(), list(self.layers)
        owner = parameter
        while owner := owner.rpartition(".")[0]:
            if owner in order:
                break
        if not owner or any(block.startswith(f"{owner}.") for block in known):
            return 0
        return sum(order.index(block) < order.index(owner) for block in known)

    def listed_blocks(self) -> str:
        """The places and names of the blocks, for an error's words."""
        return ", ".join(f"{place} ({name})" for place, name in enumerate(self.blocks()))

    def layer_name(self, layer: int | str) -> str:
        """The dotted name of a layer.

        Args:
            layer: Such a name, or the place of a block in `blocks()`; a negative one counts from the last.

        Raises:
            ValueError: there is no such layer.
        """
        known = self.blocks()
        if isinstance(layer, int) and -len(known) <= layer < len(known):
            return known[layer]
        if layer in self.layers:
            return str(layer)
        near = difflib.get_close_matches(str(layer), self.layers, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        if "," in str(layer):
            hint = f"Several layers are a list, [{layer}]. "
        inside = next((name for name in self.layers if name.startswith(f"{known[-1]}.")), next(iter(self.layers)))
        raise ValueError(
            f"{self.name} has no layer {layer!r}. {hint}Its blocks: {self.listed_blocks()}; and what is inside "
            f"of them, by its name, such as {inside}"
        )

    def layer_features(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of inner layers, in one pass; what lies behind the last of them is not computed.

        A map is averaged over its places. Tokens are pooled as the backbone pools its last ones: the class token or
        the mean over the places. A vector stays as it is. No norm that follows the layer is applied.

        Args:
            x: (B, C, H, W) float in [0, 1].
            layers: Dotted names; "" is the network itself, whose features are those of `forward`.

        Returns:
            (B, D) float for each layer, in the order of `layers`; D differs.
        """
        return self._outputs(x, layers, self.pool)

    def layer_map(self, x: Tensor, layer: str) -> Tensor:
        """The map (B, C, H, W) of an inner layer, not pooled; for tokens that of the places, without a class token."""
        return self.layer_maps(x, [layer])[layer]

    def layer_maps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The maps of several layers in one pass, each as `layer_map` gives it; "" is the features (B, dim)."""
        return self._outputs(x, layers, lambda out: out if out.ndim == 2 else self._as_map(out))

    def layer_dim(self, layer: str) -> int:
        """The number of features of a layer."""
        return self.pool(torch.empty(1, *self.layers[layer], device="meta")).shape[1]

    def map_shape(self, layer: str) -> tuple[int, int, int]:
        """(C, H, W) of the map of a layer.

        Raises:
            ValueError: it gives a vector.
        """
        shape = self.layers[layer]
        if len(shape) == 1:
            raise ValueError(f"layer {layer} of {self.name} gives a vector of {shape[0]} numbers, not a map")
        c, h, w = self._as_map(torch.empty(1, *shape, device="meta")).shape[1:]
        return c, h, w

    def pool(self, out: Tensor) -> Tensor:
        """(B, D) of what a layer gives: a map, tokens or a vector."""
        if out.ndim == 2:
            return out.clone()  # the next layer may work in place
        if out.ndim == 3 and self._by_class_token and out.shape[1] > math.isqrt(out.shape[1]) ** 2:
            return out[:, 0].clone()
        return self._as_map(out).mean((2, 3))

    @cached_property
    def _blocks(self) -> list[str]:
        return blocks(self.net, self.layers)

    @property
    def _by_class_token(self) -> bool:
        return isinstance(self.net, VisionTransformer) or getattr(self.net, "global_pool", None) == "token"

    @cached_property
    def _channels_last(self) -> bool:
        """Whether a map of which all sides are equal is (B, H, W, C): as that of the last block that tells."""
        shapes = [self.layers[name] for name in self.blocks()]
        telling = [s for s in shapes if len(s) == 3 and len(set(s)) > 1]
        return bool(telling) and telling[-1][0] == telling[-1][1]

    def _as_map(self, out: Tensor) -> Tensor:
        """(B, C, H, W) of a map in either order, or of tokens (B, N, D), of which the last ones are the places.

        Images are square, so maps are.
        """
        if out.ndim == 3:
            side = math.isqrt(out.shape[1])
            return out[:, -side * side :].mT.unflatten(2, (side, side))
        height, width, last = out.shape[1:]
        if height == width and (width != last or self._channels_last):
            return out.permute(0, 3, 1, 2)
        return out

    @torch.compiler.disable
    def _outputs(self, x: Tensor, layers: Sequence[str], take: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """What `take` makes of the layers' outputs."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(module: nn.Module, args: Any, out: Tensor) -> None:
                found[name] = take(out)
                if len(found) == len(layers):
                    raise _EnoughError

            return hook

        hooks = [self.net.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
        try:
            with torch.compiler.set_stance("force_eager"):  # compiled code does not see new hooks
                self.forward(x)
        except _EnoughError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return {name: found[name] for name in layers}

    def _trace(self) -> tuple[int, dict[str, tuple[int, ...]], str | None]:
        """The number of features, `layers` and `starved`, inferred on the meta device: no arithmetic and no memory."""
        calls: dict[str, list[Any]] = {}
        starved: list[str] = []

        def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, args: Any, out: Any) -> None:
                calls.setdefault(name, []).append(out)
                if args and isinstance(args[0], Tensor) and is_starved(module, args[0].shape):
                    starved.append(name)

            return hook

        hooks = [module.register_forward_hook(watch(name)) for name, module in self.net.named_modules() if name]
        tensors = [*self.named_parameters(), *self.named_buffers()]
        meta = {key: tensor.to("meta") for key, tensor in tensors}
        shape = (1, self.in_channels, self.image_size, self.image_size)
        self.eval()
        try:
            with torch.no_grad():
                out = functional_call(self, meta, (torch.empty(shape, device="meta"),))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(
                f"{self.name} cannot take images of {self.in_channels}x{self.image_size}x{self.image_size}: "
                f"{error}; choose another image_size or backbone"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        self.train()
        if not isinstance(out, Tensor) or out.ndim != 2:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"{self.name} must give features (1, D) for one image, but gives {got}")
        layers = {}
        for name, outs in calls.items():
            one = outs[0] if len(outs) == 1 and isinstance(outs[0], Tensor) else None  # else no output is the layer's
            if one is not None and 2 <= one.ndim <= 4 and len(one) == 1:
                layers[name] = tuple(one.shape[1:])
        if layers and max(map(places, layers.values())) == 1:  # a transformer of one patch
            starved.append(next(iter(layers)))
        return out.shape[1], layers, next(iter(starved), None)


class _EnoughError(Exception):
    """The last layer that was asked for is known."""


def _per_channel(name: str, value: float | list[float] | None, default: float | tuple[float, ...], n: int) -> Tensor:
    given = default if value is None else value
    tensor = torch.tensor(given, dtype=torch.get_default_dtype(), device="cpu")  # also where the net is on "meta"
    if tensor.ndim > 1 or tensor.numel() not in (1, n):
        raise ValueError(f"{name} must be one number or one for each of the {n} channels, got {value}")
    return tensor.flatten().expand(n).reshape(1, n, 1, 1).clone()
