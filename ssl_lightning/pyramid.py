"""Maps of a backbone at several strides, brought to one width: what a detector looks at."""

import math
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from ssl_lightning.backbones import Backbone

LEVELS = 4
ANCHOR = 8  # side of a square anchor, in strides: 32 px at stride 4, as in FPN's paper


def stages(backbone: Backbone) -> list[str]:
    """The last block of each size of map, the finest first: of at most four sizes, each twice the next one, down to
    that of the last block.

    Raises:
        ValueError: the stride of the last block is no power of two.
    """
    last: dict[int, str] = {}
    for name in backbone.blocks():
        side = backbone.map_shape(name)[1]
        last.pop(side, None)
        last[side] = name
    smallest = next(reversed(last))
    if not math.log2(backbone.image_size / smallest).is_integer():
        raise ValueError(
            f"{backbone.name} makes a map of {smallest} x {smallest} of images of {backbone.image_size} px, and a "
            "detector needs a stride that is a power of two: choose an image_size that is a multiple of 32, or another "
            "backbone, such as resnet50 or vit_base_patch16_224"
        )
    found = [smallest]
    while 2 * found[0] in last and len(found) < LEVELS:
        found.insert(0, 2 * found[0])
    return [last[side] for side in found]


class FPN(nn.Module):
    """Feature Pyramid Networks. Lin, Dollár, Girshick, He, Hariharan, Belongie, 2016. https://arxiv.org/abs/1612.03144

    With a further level of twice the last stride, as in the paper, where the largest anchor would be less than half of
    the image.

    Args:
        backbone: Whose maps it takes.
        layers: Which of them, the finest first.
        channels: Of its maps.
        norm: Whether batch norm follows its convolutions.

    Attributes:
        strides: Of its maps, in pixels.
        names: Of its maps, but for the further level, which no proposal is read from.
    """

    def __init__(self, backbone: Backbone, layers: list[str], channels: int, norm: bool) -> None:
        super().__init__()
        self.names, self.channels = layers, channels
        shapes = [backbone.map_shape(name) for name in layers]
        self.strides = [backbone.image_size // side for _, side, _ in shapes]
        more = LastLevelMaxPool() if ANCHOR * self.strides[-1] < backbone.image_size / 2 else None
        if more:
            self.strides.append(2 * self.strides[-1])
        self.fpn = FeaturePyramidNetwork([c for c, _, _ in shapes], channels, more, nn.BatchNorm2d if norm else None)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps by their layers -> maps (B, channels, H, W), the finest first."""
        return self.fpn(OrderedDict(maps))


class SimplePyramid(nn.Module):
    """The pyramid of a plain vision transformer: the last map, enlarged and shrunk. Li, Mao, Girshick, He, Exploring
    Plain Vision Transformer Backbones for Object Detection, 2022, section 3. https://arxiv.org/abs/2203.16527

    Args:
        backbone: Whose map it takes.
        layer: Which.
        channels: Of its maps.

    Attributes:
        strides: Of its maps, in pixels: a quarter, half, once and twice that of the backbone's, where there are such.
        names: Of its maps.
    """

    def __init__(self, backbone: Backbone, layer: str, channels: int) -> None:
        super().__init__()
        dim, side, _ = backbone.map_shape(layer)
        stride = backbone.image_size // side
        scales = {
            4: [*enlarge(dim), LayerNorm2d(dim // 2), nn.GELU(), *enlarge(dim // 2)],
            2: enlarge(dim),
            1: [],
            0.5: [nn.MaxPool2d(2)],
        }
        self.layer, self.channels = layer, channels
        self.strides: list[int] = []
        self.levels = nn.ModuleList()
        for scale, layers in scales.items():
            if stride < scale or side * scale < 1:
                continue
            self.strides.append(round(stride / scale))
            narrow = nn.Conv2d(dim // math.ceil(scale), channels, 1, bias=False)
            smooth = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.levels.append(nn.Sequential(*layers, narrow, LayerNorm2d(channels), smooth, LayerNorm2d(channels)))

        self.names = [str(stride) for stride in self.strides]

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps by their layers -> maps (B, channels, H, W), the finest first."""
        return {name: level(maps[self.layer]) for name, level in zip(self.names, self.levels, strict=True)}


def enlarge(dim: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(dim, dim // 2, 2, stride=2)]
