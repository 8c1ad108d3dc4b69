"""An Empirical Study of Training Self-Supervised Vision Transformers.

Chen, Xie, He, 2021. https://arxiv.org/abs/2104.02057
"""

from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.momentum import MomentumUpdate
from datamodules.batch import ImageBatch
from datamodules.views import BYOLViews
from ssl_lightning.base import ImageModule, frozen_copy
from ssl_lightning.chunks import check_chunk_size, in_chunks
from ssl_lightning.distributed import gather_rows
from ssl_lightning.heads import LastNorm, mlp


def contrast(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """``ctr`` of algorithm 1: each query names its key among the keys of the batch.

    Args:
        q: (B, D) queries.
        k: (B, D) keys, without gradient.
        temperature: Greater than 0.

    Returns:
        () float32, times 2 temperature as in the paper.
    """
    with torch.autocast(q.device.type, enabled=False):
        logits = F.normalize(q.float(), dim=1) @ F.normalize(k.float(), dim=1).T / temperature  # (B, B)
    return 2 * temperature * F.cross_entropy(logits, torch.arange(len(q), device=q.device))


class MoCoV3(ImageModule):
    """As MoCo, with a prediction head, no queue, and the keys of the same batch as negatives.

    The defaults are those for ResNet-50; for a ViT take ``temperature=0.2, projection_layers=3, prediction_norm=True,
    optimizer="AdamW", lr=1.5e-4, weight_decay=0.1, warmup_epochs=40``.

    Args:
        temperature: 1.0 for ResNet-50, 0.2 for ViT.
        hidden_dim: Width of the hidden layers of both heads.
        projection_dim: Width of queries and keys.
        projection_layers: 2 for ResNet-50, 3 for ViT.
        prediction_norm: Batch norm after the prediction head, for ViT.
        freeze_patch_embed: Keep a ViT's random patch projection, section 4.3; no effect on other backbones.
        chunk_size: Images that a backbone sees at a time, where memory cannot hold the batch; see docs/methods.md.
        momentum: Where the key encoder's momentum starts; it rises along half a cosine to 1.
        optimizer: See SSLModule.
        lr: 0.3 for a batch of 256, as for 300 epochs.
        weight_decay: As for ResNet-50.
        decay_norm_and_bias: The paper leaves biases and norms out of decay and adaptation.
        warmup_epochs: 10 for ResNet-50, 40 for ViT.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: ``temperature`` is not positive, ``momentum`` outside [0, 1], or ``chunk_size`` less than 1.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        projection_layers: int = 2,
        prediction_norm: bool = False,
        freeze_patch_embed: bool = True,
        chunk_size: int | None = None,
        momentum: float = 0.99,
        optimizer: str = "LARS",
        lr: float = 0.3,
        weight_decay: float = 1e-6,
        decay_norm_and_bias: bool = False,
        warmup_epochs: float = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            decay_norm_and_bias=decay_norm_and_bias,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )
        if temperature <= 0:
            raise ValueError(f"temperature must be greater than 0, got {temperature}")
        check_chunk_size(chunk_size)
        self.temperature, self.momentum, self.chunk_size = temperature, momentum, chunk_size
        if freeze_patch_embed and isinstance(patch_embed := getattr(self.backbone.net, "patch_embed", None), nn.Module):
            patch_embed.requires_grad_(False)
        hidden = [hidden_dim] * (projection_layers - 1)
        self.projector = mlp(self.backbone.dim, *hidden, projection_dim, norm=True, last_norm="plain")
        last_norm: LastNorm = "plain" if prediction_norm else "none"
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim, norm=True, last_norm=last_norm)
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_projector = frozen_copy(self.projector)

    def default_views(self) -> BYOLViews:
        return BYOLViews()

    def configure_callbacks(self) -> list[Callback]:
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.backbone, self.teacher_backbone),
            (self.projector, self.teacher_projector),
        ]
        return [MomentumUpdate(pairs, self.momentum, final=1.0)]

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        x0, x1 = batch.views
        q0, q1 = gather_rows(self.query(x0)), gather_rows(self.query(x1))
        k0, k1 = gather_rows(self.key(x0)), gather_rows(self.key(x1))
        return contrast(q0, k1, self.temperature) + contrast(q1, k0, self.temperature)

    def query(self, x: Tensor) -> Tensor:
        return self.predictor(self.projector(in_chunks(self.backbone, x, self.chunk_size)))

    @torch.no_grad()
    def key(self, x: Tensor) -> Tensor:
        return self.teacher_projector(in_chunks(self.teacher_backbone, x, self.chunk_size))
