"""The tower of the context-free network, which sees one tile of a jigsaw puzzle.

Mehdi Noroozi, Paolo Favaro, Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles, 2016.
https://arxiv.org/abs/1603.09246
"""

from torch import Tensor, nn
from torch.nn import functional as F


class CFN(nn.Module):
    """AlexNet's five convolutions, the first with stride 2; the last map, 3x3x256, makes 2304 features.

    A tile of 64 px gives this map as it does in the authors' Caffe, whose pooling rounds sizes up; of larger images the
    map is averaged to 3x3. What follows in the paper, fc6 to fc8, is the head of the puzzle. Weights are drawn as
    He et al. 2015 do: the authors' widths are for pixels from 0 to 255.

    Args:
        in_channels: Channels of an image.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, 96, 11, stride=2), nn.ReLU(), _pool(), nn.LocalResponseNorm(5)
        )
        self.conv2 = nn.Sequential(
            nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), _pool(), nn.LocalResponseNorm(5)
        )
        self.conv3 = nn.Sequential(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU())
        self.conv4 = nn.Sequential(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU())
        self.conv5 = nn.Sequential(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), _pool())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x)))))
        return F.adaptive_avg_pool2d(x, 3).flatten(1)  # (B, 2304)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
