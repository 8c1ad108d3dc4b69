"""The one form in which methods see a backbone: images in [0, 1] in, one feature vector an image out."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A library's network without its classifier, with the normalisation of its input inside.

    mean and std are buffers, so they travel in the state dict and a checkpoint needs no side knowledge.

    Args:
        net: Takes normalised images (B, C, H, W), gives features (B, D). It is kept as `net`, with the
            library's own parameter names.
        library: "torchvision", "timm" or "ssl_lightning".
        architecture: The library's name of the network, such as "resnet18".
        in_channels: Channels C of an image.
        image_size: Height and width of the images in pixels, for which the network is checked.
        mean: What is subtracted from each channel of images in [0, 1]: one number or C of them. The default
            is ImageNet's for 3 channels and 0.5 for any other number.
        std: What each channel is then divided by, as `mean`. With 0.5 and 0.5 the input lies in [-1, 1].
        small_stem: Whether the stem of a ResNet has been made that of small images.

    Attributes:
        dim: The number of features D.
        name: Library and architecture, such as "torchvision/resnet18": `build` takes it.

    Raises:
        ValueError: if the network cannot take images of this size, does not give (B, D), or mean and std do
            not fit.
    """

    mean: Tensor
    std: Tensor

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
    ) -> None:
        super().__init__()
        self.library = library
        self.architecture = architecture
        self.name = f"{library}/{architecture}"
        self.in_channels = in_channels
        self.image_size = image_size
        self.small_stem = small_stem
        rgb = in_channels == 3
        self.register_buffer("mean", _per_channel("mean", mean, IMAGENET_MEAN if rgb else 0.5, in_channels))
        self.register_buffer("std", _per_channel("std", std, IMAGENET_STD if rgb else 0.5, in_channels))
        if (self.std <= 0).any():
            raise ValueError(f"std must be above 0 in every channel, got {std}")
        self.net = net
        self.dim = self._feature_dim()

    def forward(self, x: Tensor) -> Tensor:
        """Give the features.

        Args:
            x: (B, C, H, W) float in [0, 1].

        Returns:
            (B, dim) float.
        """
        x = (x - self.mean) / self.std
        return self.net(x.contiguous(memory_format=torch.channels_last))  # the layout convolutions are fastest in

    def _feature_dim(self) -> int:
        """Infer the number of features on the meta device: shapes only, no arithmetic and no memory."""
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
        self.train()
        if not isinstance(out, Tensor) or out.ndim != 2:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"{self.name} must give features (1, D) for one image, but gives {got}")
        return out.shape[1]


def _per_channel(name: str, value: float | list[float] | None, default: float | tuple[float, ...], n: int) -> Tensor:
    tensor = torch.tensor(default if value is None else value, dtype=torch.get_default_dtype())
    if tensor.ndim > 1 or tensor.numel() not in (1, n):
        raise ValueError(f"{name} must be one number or one for each of the {n} channels, got {value}")
    return tensor.flatten().expand(n).reshape(1, n, 1, 1).clone()
