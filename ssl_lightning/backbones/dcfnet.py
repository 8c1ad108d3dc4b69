"""The network of DCFNet and UDT: as fine as the picture, for correlation filters.

Wang, Gao, Xing, Zhang, Hu, DCFNet: Discriminant Correlation Filters Network for Visual Tracking, 2017,
https://arxiv.org/abs/1704.04057
"""

from torch import Tensor, nn


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
        self.layers = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))  # (B, width)
