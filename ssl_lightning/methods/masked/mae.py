"""Masked Autoencoders Are Scalable Vision Learners.

He, Chen, Xie, Li, Dollár, Girshick, 2021. https://arxiv.org/abs/2111.06377
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from datamodules.views import CropFlipViews
from ssl_lightning.masked import MaskedImageModule, encode
from ssl_lightning.patches import patch_statistics, sincos_positions, take


def initialise(module: nn.Module) -> None:
    """The authors': Xavier's for all linear layers, of which the patch projection is one; no biases."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight.view(len(layer.weight), -1))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Decoder(nn.Module):
    """Blocks that see the encoded patches and, for every hidden one, a mask token, all at their places.

    Args:
        dim: Width of the encoder.
        width: Width of the decoder.
        depth: Its blocks.
        heads: Heads of each.
        side: Patches along a side of the image.
        outputs: Numbers told for a patch.
    """

    positions: Tensor

    def __init__(self, dim: int, width: int, depth: int, heads: int, side: int, outputs: int) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sincos_positions(width, side), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm = norm(width)
        self.head = nn.Linear(width, outputs)
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, latent: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Class token and visible patches (B, 1 + n, dim), places (B, n) and (B, M) -> (B, M, outputs)."""
        x = self.embed(latent)
        masks = self.mask_token.expand(len(x), hidden.shape[1], -1)
        restore = torch.cat([visible, hidden], 1).argsort(1)
        patches = take(torch.cat([x[:, 1:], masks], 1), restore)
        x = self.norm(self.blocks(torch.cat([x[:, :1], patches], 1) + self.positions))
        return self.head(take(x[:, 1:], hidden))


class MAE(MaskedImageModule):
    """The encoder sees a quarter of the patches, a light decoder tells the pixels of the others.

    The encoder's positions are fixed sines and cosines, in its ``pos_embed``. Its features are those of the class
    token. Judge it by a linear probe or by fine-tuning: nearest neighbours say little about it.

    Args:
        mask_ratio: Share of the patches that is hidden, in (0, 1).
        norm_pix_loss: Each patch is told less its mean and divided by its deviation.
        decoder_dim: Width of the decoder, a multiple of 4 and of ``decoder_heads``.
        decoder_depth: Its blocks.
        decoder_heads: Heads of each.
        backbone: A vision transformer of timm with a class token: vit_base_patch16_224, vit_large_patch16_224,
            vit_huge_patch14_224, or, for images of 32 px, any with ``patch_size`` 4 or 2 in ``backbone_args``.
        optimizer: See SSLModule.
        lr: For a batch of 256; the paper's has 4096.
        weight_decay: Of matrices and tokens.
        decay_norm_and_bias: The authors decay neither.
        optimizer_args: None: betas of 0.9 and 0.95 with AdamW.
        warmup_epochs: Of 800 or 1600.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: see MaskedImageModule; or a decoder whose numbers do not fit.
    """

    score_name = "mse"

    def __init__(
        self,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        backbone: str = "vit_base_patch16_224",
        optimizer: str = "AdamW",
        lr: float = 1.5e-4,
        weight_decay: float = 0.05,
        decay_norm_and_bias: bool = False,
        optimizer_args: dict[str, Any] | None = None,
        warmup_epochs: float = 40,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            mask_ratio,
            backbone=backbone,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            decay_norm_and_bias=decay_norm_and_bias,
            optimizer_args={"betas": (0.9, 0.95)}
            if optimizer_args is None and optimizer == "AdamW"
            else optimizer_args,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )
        if decoder_depth < 1 or decoder_heads < 1 or decoder_dim < 1 or decoder_dim % decoder_heads or decoder_dim % 4:
            raise ValueError(
                "decoder_depth and decoder_heads must be at least 1 and decoder_dim a multiple of 4 and of "
                f"decoder_heads, got {decoder_depth}, {decoder_heads} and {decoder_dim}"
            )
        self.norm_pix_loss = norm_pix_loss
        vit, outputs = self.vit, self.patch**2 * self.backbone.mean.numel()
        initialise(vit)
        nn.init.normal_(vit.cls_token, std=0.02)
        vit.pos_embed.requires_grad_(False).copy_(sincos_positions(vit.embed_dim, self.side))
        self.decoder = Decoder(vit.embed_dim, decoder_dim, decoder_depth, decoder_heads, self.side, outputs)
        self.task = f"squared error of {mask_ratio:g} of the patches, {'normalised' if norm_pix_loss else 'raw'} pixels"
        if norm_pix_loss:
            self.told_title = "told; mean and\ncontrast of the\nvisible nearby"

    def default_views(self) -> CropFlipViews:
        return CropFlipViews(min_scale=0.2, interpolation="bicubic")

    def tell(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        latent = encode(self.vit, self.vit.patch_embed(self.backbone.normalise(x)), visible)
        return self.decoder(latent, visible, hidden).float()

    def errors(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        target = take(self.patches(x), hidden)
        if self.norm_pix_loss:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        return (self.tell(x, visible, hidden) - target).square().mean((1, 2))

    def pixels(self, told: Tensor, patches: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """With the mean and deviation of the visible patches, by their distance: those of the target are not told."""
        if not self.norm_pix_loss:
            return told
        mean, std = patch_statistics(take(patches, visible))  # (B, n, 1)
        here, there = (torch.stack([p // self.side, p % self.side], 2).float() for p in (hidden, visible))
        near = (-torch.cdist(here, there).square()).softmax(2)  # (B, M, n)
        return told * (near @ std) + near @ mean
