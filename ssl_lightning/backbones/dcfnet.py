"""The network of DCFNet and UDT: as fine as the picture, for correlation filters.

Wang, Gao, Xing, Zhang, Hu, DCFNet: Discriminant Correlation Filters Network for Visual Tracking, 2017,
https://arxiv.org/abs/1704.04057
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LocalResponseNorm(nn.Module):
    """x / (1 + 2e-5 sum of squares of the 5 channels around it) ** 0.75, as ``nn.LocalResponseNorm(5, 1e-4, 0.75, 1)``,
    which takes as long as both convolutions: its sum is a pooling over a copy in five dimensions, here a 1x1
    convolution.

    Args:
        channels: Of the maps.
    """

    band: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        places = torch.arange(channels)
        band = (places[:, None] - places).abs() <= 2
        self.register_buffer("band", band.float()[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        r = (1 + 2e-5 * F.conv2d(x.square(), self.band.to(x.dtype))).rsqrt()
        return x * r * r.sqrt()


class DCFNet(nn.Module):
    """Two 3x3 convolutions of stride 1, ReLU between them, then local response normalisation: 10,144 weights for three
    channels.

    They are padded. What padding has touched are the two outer rows and columns at each side of the last map: without
    them it is the map that convolutions without padding give.

    Args:
        in_channels: Channels of an image.
        width: Channels of both layers.
    """

    def __init__(self, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        convs = [nn.Conv2d(channels, width, 3, padding=1) for channels in (in_channels, width)]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # MatConvNet's, as the authors
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        self.layers = nn.Sequential(convs[0], nn.ReLU(), convs[1], LocalResponseNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))  # (B, width)
