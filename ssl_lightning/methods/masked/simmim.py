"""SimMIM: A Simple Framework for Masked Image Modeling.

Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu, 2021. https://arxiv.org/abs/2111.09886
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.views import CropFlipViews
from ssl_lightning.masked import MaskedImageModule, encode
from ssl_lightning.patches import put, take
from ssl_lightning.schedules import Schedule


class SimMIM(MaskedImageModule):
    """The encoder sees mask tokens for the hidden patches, a linear layer tells their pixels.

    The positions are the network's own, learned; the authors' ViT has relative ones, shared by its blocks. They clip
    the gradient: ``--trainer.gradient_clip_val 5``.

    Args:
        mask_ratio: Share of the squares that is hidden, in (0, 1).
        mask_unit: Side of a hidden square in pixels; None: 32, and a patch for images of at most 64 px.
        backbone: A vision transformer of timm with a class token; for images of 32 px one with ``patch_size`` 4 in
            ``backbone_args``.
        optimizer: See SSLModule.
        lr: For a batch of 512; the paper's ViT-B has 2048.
        base_batch_size: 512.
        weight_decay: Of matrices and tokens.
        decay_norm_and_bias: The authors decay neither.
        warmup_epochs: Of 800.
        schedule: See SSLModule.
        milestones: After 700 of 800 epochs.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: see MaskedImageModule.
    """

    score_name = "l1"

    def __init__(
        self,
        mask_ratio: float = 0.6,
        mask_unit: int | None = None,
        backbone: str = "vit_base_patch16_224",
        image_size: int = 224,
        optimizer: str = "AdamW",
        lr: float = 1e-4,
        base_batch_size: int = 512,
        weight_decay: float = 0.05,
        decay_norm_and_bias: bool = False,
        warmup_epochs: float = 10,
        schedule: Schedule = "step",
        milestones: tuple[float, ...] = (0.875,),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            mask_ratio,
            32 if mask_unit is None and image_size > 64 else mask_unit,
            backbone=backbone,
            image_size=image_size,
            optimizer=optimizer,
            lr=lr,
            base_batch_size=base_batch_size,
            weight_decay=weight_decay,
            decay_norm_and_bias=decay_norm_and_bias,
            warmup_epochs=warmup_epochs,
            schedule=schedule,
            milestones=milestones,
            **kwargs,
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.vit.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder = nn.Linear(self.vit.embed_dim, self.patch**2 * self.backbone.mean.numel())
        self.task = f"absolute error of {mask_ratio:g} of the pixels, in squares of {self.unit * self.patch}"

    def default_views(self) -> CropFlipViews:
        return CropFlipViews(min_scale=0.67, interpolation="bicubic")

    def tell(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        tokens = self.vit.patch_embed(self.backbone.normalise(x))
        tokens = put(tokens, hidden, self.mask_token.to(tokens.dtype).expand(*hidden.shape, -1))
        return self.decoder(take(encode(self.vit, tokens)[:, 1:], hidden)).float()

    def errors(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        return (self.tell(x, visible, hidden) - take(self.patches(x), hidden)).abs().mean((1, 2))
