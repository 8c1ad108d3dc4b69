"""LeNet-5, for grey images of 32 px.

Yann LeCun, Léon Bottou, Yoshua Bengio, Patrick Haffner, Gradient-Based Learning Applied to Document Recognition, 1998,
section II.B.
"""

from torch import Tensor, nn


class LeNet5(nn.Module):
    """Two convolutions with pooling, the convolution C5, which of 32 px makes one place, and the layer F6: 84 features.

    With a linear layer of 10 classes on one channel it has 61,706 parameters. As in most of its descendants the pooling
    has no weights, the second convolution reads all maps of the first, and the last layer is linear in place of radial
    basis functions. The paper's digits of 28 px lie in the middle of 32; of larger images C5 gives a map, which is
    averaged.

    Args:
        in_channels: Channels of an image.
    """

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Sequential(nn.Conv2d(in_channels, 6, 5), nn.Tanh(), nn.AvgPool2d(2))
        self.c3 = nn.Sequential(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2))
        self.c5 = nn.Sequential(nn.Conv2d(16, 120, 5), nn.Tanh())
        self.f6 = nn.Sequential(nn.Linear(120, 84), nn.Tanh())
        for module in self.modules():
            if isinstance(
                module, nn.Conv2d | nn.Linear
            ):  # the paper draws uniformly, smaller the more inputs there are
                nn.init.xavier_uniform_(module.weight, nn.init.calculate_gain("tanh"))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.c5(self.c3(self.c1(x)))  # (B, 120, 1, 1) of 32 px
        return self.f6(x.mean((2, 3)))  # (B, 84)
