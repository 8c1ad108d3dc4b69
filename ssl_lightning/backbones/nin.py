"""The Network-in-Network of RotNet and AET, for 32-px images.

Min Lin, Qiang Chen, Shuicheng Yan, Network In Network, 2013. https://arxiv.org/abs/1312.4400
Gidaris, Singh, Komodakis, Unsupervised Representation Learning by Predicting Image Rotations, 2018, appendix A.
https://arxiv.org/abs/1803.07728
"""

import math

from torch import Tensor, nn


class NIN(nn.Module):
    """Blocks of one 3x3 or 5x5 and two 1x1 convolutions, each with batch norm and ReLU; 192 features.

    The first two blocks, ``block1`` and ``block2``, halve the sides; the others, ``block3`` and so on, keep them.

    Args:
        blocks: 3, 4 or 5 in RotNet, 4 in AET.
        in_channels: Channels of an image.

    Raises:
        ValueError: fewer than 3 blocks.
    """

    def __init__(self, blocks: int, in_channels: int = 3) -> None:
        super().__init__()
        if blocks < 3:
            raise ValueError(f"blocks must be 3 or more, got {blocks}")
        self.blocks = blocks
        self.block1 = nn.Sequential(*nin_block(in_channels, 192, 160, 96, kernel=5), nn.MaxPool2d(3, 2, padding=1))
        self.block2 = nn.Sequential(*nin_block(96, 192, 192, 192, kernel=5), nn.AvgPool2d(3, 2, padding=1))
        for i in range(3, blocks + 1):
            self.add_module(f"block{i}", nn.Sequential(*nin_block(192, 192, 192, 192, kernel=3)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # the authors': He et al. 2015, by the outputs
                nn.init.normal_(module.weight, 0, math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.children():
            x = block(x)
        return x.mean((2, 3))  # (B, 192)


def nin_block(*channels: int, kernel: int) -> list[nn.Module]:
    """Convolutions with batch norm and ReLU: the first of ``kernel`` x ``kernel``, the others 1x1."""
    layers: list[nn.Module] = []
    for i in range(len(channels) - 1):
        size = kernel if i == 0 else 1
        conv = nn.Conv2d(channels[i], channels[i + 1], size, padding=size // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(channels[i + 1]), nn.ReLU(inplace=True)]
    return layers


def nin3(in_channels: int = 3) -> NIN:
    """3 blocks: 1.00 million parameters."""
    return NIN(3, in_channels)


def nin4(in_channels: int = 3) -> NIN:
    """4 blocks: 1.41 million parameters."""
    return NIN(4, in_channels)


def nin5(in_channels: int = 3) -> NIN:
    """5 blocks: 1.82 million parameters."""
    return NIN(5, in_channels)
