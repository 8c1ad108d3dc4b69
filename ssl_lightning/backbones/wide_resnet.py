"""Wide Residual Networks, for 32-px images.

Zagoruyko, Komodakis, 2016. https://arxiv.org/abs/1605.07146
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions; where the shape changes, a 1x1 convolution as shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same = in_channels == channels
        self.shortcut = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        if self.shortcut is not None:
            x = self.shortcut(out)
        return x + self.conv2(F.relu(self.bn2(self.conv1(out))))


class WideResNet(nn.Module):
    """WRN-28-k: three stages of four blocks with 16 k, 32 k and 64 k channels; 64 k features.

    Args:
        width: k.
        depth: 6 n + 4 for n blocks a stage.
        in_channels: Channels of an image.

    Raises:
        ValueError: depth is not 6 n + 4.
    """

    def __init__(self, width: int, depth: int = 28, in_channels: int = 3) -> None:
        super().__init__()
        n, rest = divmod(depth - 4, 6)
        if rest or n < 1:
            raise ValueError(f"depth must be 6 n + 4, such as 10, 16 or 28, got {depth}")
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        for i, stride in enumerate((1, 2, 2)):
            first = Block(channels[i], channels[i + 1], stride)
            others = (Block(channels[i + 1], channels[i + 1], 1) for _ in range(n - 1))
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *others))
        self.bn = nn.BatchNorm2d(channels[3])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for i in (1, 2, 3):
            x = self.get_submodule(f"layer{i}")(x)
        return F.relu(self.bn(x)).mean((2, 3))  # (B, 64 k)


def wrn28_2(in_channels: int = 3, depth: int = 28) -> WideResNet:
    """WRN-28-2: 1.5 million parameters."""
    return WideResNet(2, depth, in_channels)


def wrn28_8(in_channels: int = 3, depth: int = 28) -> WideResNet:
    """WRN-28-8: 23.4 million parameters."""
    return WideResNet(8, depth, in_channels)


def wrn28_10(in_channels: int = 3, depth: int = 28) -> WideResNet:
    """WRN-28-10: 36.5 million parameters."""
    return WideResNet(10, depth, in_channels)
