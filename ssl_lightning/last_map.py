"""The last feature map of a backbone: what its pooling takes the mean of."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ssl_lightning.backbones import Backbone


def last_map(backbone: Backbone) -> str:
    """The last layer that gives a map of more than one place; freezes what lies behind it and would not be trained.

    Raises:
        ValueError: there is none, or further convolutions make a single place of it.
    """
    maps = [name for name, shape in backbone.layers.items() if len(shape) > 1 and backbone.map_shape(name)[1] > 1]
    why = f"{backbone.name} makes a single place of images of {backbone.image_size} px"
    if not maps:
        raise ValueError(f"{why}: choose larger images, or another backbone")
    parameters = dict(backbone.named_parameters())
    for name in without_gradient(backbone, maps[-1]):
        if parameters[name].ndim == 4 and parameters[name].shape[-1] > 1:
            raise ValueError(f"{why}, by {name}: choose larger images, or another backbone")
        parameters[name].requires_grad_(False)
    return maps[-1]


def without_gradient(backbone: Backbone, layer: str) -> list[str]:
    """The parameters that the map of a layer does not depend on, found on the meta device: no arithmetic."""

    class Map(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, x: Tensor) -> Tensor:
            return self.backbone.layer_map(x, layer)

    parameters = {name: p.detach().to("meta").requires_grad_() for name, p in backbone.named_parameters()}
    everything = {**parameters, **{name: b.to("meta") for name, b in backbone.named_buffers()}}
    image = torch.empty(1, backbone.in_channels, backbone.image_size, backbone.image_size, device="meta")
    backbone.eval()
    out = functional_call(Map(), {f"backbone.{name}": t for name, t in everything.items()}, (image,))
    backbone.train()
    grads = torch.autograd.grad(out.sum(), list(parameters.values()), allow_unused=True)
    return [name for name, grad in zip(parameters, grads, strict=True) if grad is None]
