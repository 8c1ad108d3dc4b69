"""The ResNets for 32-px images: Deep Residual Learning for Image Recognition, section 4.2.

Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, 2015. https://arxiv.org/abs/1512.03385
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters (option A)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        # Option A: every stride-th place, zeros for the new channels.
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class CIFARResNet(nn.Module):
    """ResNet of 6 n + 2 layers with 16, 32 and 64 channels; 64 features.

    Args:
        n: Blocks in each of the three stages: 3, 5, 9, 18 make ResNet-20, -32, -56, -110.
        in_channels: Channels of an image.
    """

    def __init__(self, n: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(n - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(n - 1)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean((2, 3))  # (B, 64)


def resnet20(in_channels: int = 3) -> CIFARResNet:
    """ResNet-20: 0.27 million parameters."""
    return CIFARResNet(3, in_channels)


def resnet32(in_channels: int = 3) -> CIFARResNet:
    """ResNet-32: 0.46 million parameters."""
    return CIFARResNet(5, in_channels)


def resnet56(in_channels: int = 3) -> CIFARResNet:
    """ResNet-56: 0.85 million parameters."""
    return CIFARResNet(9, in_channels)


def resnet110(in_channels: int = 3) -> CIFARResNet:
    """ResNet-110: 1.7 million parameters."""
    return CIFARResNet(18, in_channels)
