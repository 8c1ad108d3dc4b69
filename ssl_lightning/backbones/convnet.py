"""A small plain network for tests, quick starts and runs on a laptop's CPU."""

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Four 3x3 convolutions of stride 2 with ReLU, then the mean over the places: about 4 million MACs at 32
    px.

    Args:
        in_channels: Channels of an image.
        width: Channels after the first layer; each next layer doubles them, so there are 8 width features.
        norm: Normalisation after each convolution: "batch", "group" (8 groups) or "none". With "group" and
            "none" an image's features do not depend on the rest of the batch.

    Raises:
        ValueError: if norm is none of these, or width cannot be cut into 8 groups with norm="group".
    """

    def __init__(self, in_channels: int = 3, width: int = 32, norm: str = "batch") -> None:
        super().__init__()
        if norm not in ("batch", "group", "none"):
            raise ValueError(f'norm must be "batch", "group" or "none", got {norm!r}')
        if norm == "group" and width % 8:
            raise ValueError(f'width must be a multiple of 8 with norm="group", got {width}')
        layers: list[nn.Module] = []
        for channels in (width, 2 * width, 4 * width, 8 * width):
            conv = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=norm == "none")
            # Keeps the scale of the activations through the layers (He et al. 2015, "Delving deep into
            # rectifiers").
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layers.append(conv)
            if norm == "batch":
                layers.append(nn.BatchNorm2d(channels))
            elif norm == "group":
                layers.append(nn.GroupNorm(8, channels))
            layers.append(nn.ReLU())
            in_channels = channels
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))  # (B, 8 width)
