"""The class of methods that hide patches of an image from a vision transformer, which tells them."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from callbacks.pictures import Column
from datamodules.batch import ImageBatch
from datamodules.draws import uniform
from ssl_lightning.backbones import Backbone
from ssl_lightning.patches import number_hidden, patchify, put, shuffled, take, unpatchify
from ssl_lightning.pretext import PretextModule


def encode(vit: Any, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
    """Class token and patches through the blocks and the norm.

    Args:
        vit: A vision transformer of timm, see `check_plain`.
        tokens: (B, N, D) embedded patches, without positions.
        visible: (B, n) places of those that the blocks see; None: all.

    Returns:
        (B, 1 + n, D)
    """
    tokens = tokens + vit.pos_embed[:, 1:]
    if visible is not None:
        tokens = take(tokens, visible)
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(tokens), -1, -1)
    return vit.norm(vit.blocks(vit.norm_pre(vit.pos_drop(torch.cat([first, tokens], 1)))))


def check_plain(backbone: Backbone, method: str) -> None:
    """
    Raises:
        ValueError: it is no vision transformer of timm with a class token, positions and a norm of every token; or
            the images are not cut into whole patches.
    """
    net: Any = backbone.net
    plain = isinstance(net, VisionTransformer) and net.cls_token is not None and net.pos_embed is not None
    if not plain or net.pos_embed.shape[1] != 1 + net.patch_embed.num_patches:
        raise ValueError(
            f"{method} hides patches of a vision transformer of timm with a class token, and {backbone.name} is none: "
            "take vit_base_patch16_224 or another vit_*_patch*_224, for small images with backbone_args "
            "{patch_size: 4}"
        )
    if isinstance(net.norm, nn.Identity):
        raise ValueError(f"{method} needs the norm of every token: add fc_norm: false to backbone_args")
    patch = net.patch_embed.patch_size[0]
    if backbone.image_size % patch:
        raise ValueError(
            f"image_size must be a multiple of the patch: {backbone.name} cuts {patch} x {patch} px, and the images "
            f"have {backbone.image_size}. Set another image_size, or patch_size in backbone_args"
        )


class MaskedImageModule(PretextModule):
    """Patches of an image are hidden, a share of them drawn anew for every image and epoch, and told from the others.

    A method gives `tell` and `errors`; `pixels` where it does not tell pixels, and ``told_title`` then says what its
    pictures show. Hidden patches are those of squares of ``mask_unit`` pixels.

    Args:
        mask_ratio: Share of the squares that is hidden, in (0, 1), rounded up.
        mask_unit: Side of a square in pixels, a multiple of the patch; None: a patch.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: a backbone that is no plain vision transformer; an image, a square or a patch that is not a multiple
            of the next; a ratio out of its range or that leaves nothing visible.
    """

    told_title = "told"

    def __init__(self, mask_ratio: float, mask_unit: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_plain(self.backbone, type(self).__name__)
        self.patch = self.vit.patch_embed.patch_size[0]
        self.side = self.image_size // self.patch  # in patches
        unit = self.patch if mask_unit is None else mask_unit
        if unit < 1 or unit % self.patch or self.image_size % unit:
            fit = [n for n in range(self.patch, self.image_size, self.patch) if self.image_size % n == 0]
            raise ValueError(
                f"mask_unit must be a multiple of the patch of {self.patch} px that divides the image of "
                f"{self.image_size} px, got {unit}: take one of {', '.join(map(str, fit))}"
            )
        self.unit = unit // self.patch
        self.draws = (self.side // self.unit) ** 2  # random numbers an image
        self.hidden = number_hidden(self.draws, mask_ratio) * self.unit**2  # patches

    @property
    def vit(self) -> Any:
        return self.backbone.net

    def networks(self) -> list[nn.Module]:
        """What a training step calls, and `Compile` compiles: parts of the encoder, which is not called whole."""
        return [*self.children(), self.vit.patch_embed, self.vit.blocks]

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        x = batch.views[0]
        visible, hidden = self.split(self.uniform(batch.index, self.draws), x.device)
        return self.errors(x, visible, hidden).mean()

    def scores(self, batch: ImageBatch) -> Tensor:
        x = batch.views[0]
        return self.errors(x, *self.split(uniform(batch.index, self.draws), x.device))

    def split(self, u: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Places of the visible and of the hidden patches, (B, N - M) and (B, M), from u (B, draws) on the CPU."""
        order = shuffled(u, self.side, self.unit).to(device, non_blocking=True)
        return order[:, : -self.hidden], order[:, -self.hidden :]

    def patches(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> normalised patches (B, N, P) float32."""
        return patchify(self.backbone.normalise(x.float()), self.patch)

    def tell(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """What the model tells of the hidden patches of images (B, C, H, W): (B, M, P) float32."""
        raise NotImplementedError

    def errors(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """The loss of each image: (B,) float32."""
        raise NotImplementedError

    def pixels(self, told: Tensor, patches: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """What is told of the hidden patches as normalised pixels, from it and from visible patches alone."""
        return told

    def pictures(self, batch: ImageBatch) -> list[Column]:
        """What the model sees, that with what it tells put in, and the image."""
        x = batch.views[0]
        visible, hidden = self.split(uniform(batch.index, self.draws), x.device)
        patches = self.patches(x)
        told = self.pixels(self.tell(x, visible, hidden), patches, visible, hidden)
        columns = {
            "masked": put(patches, hidden, torch.zeros_like(told)),
            self.told_title: put(patches, hidden, told),
            "image": patches,
        }
        mean, std = self.backbone.mean, self.backbone.std
        return [
            Column(title, (unpatchify(drawn, self.patch) * std + mean).clamp(0, 1)) for title, drawn in columns.items()
        ]
