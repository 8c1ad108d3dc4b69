"""A Simple Framework for Contrastive Learning of Visual Representations.

Chen, Kornblith, Norouzi, Hinton, 2020. https://arxiv.org/abs/2002.05709
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.batch import ImageBatch
from datamodules.views import SimCLRViews
from ssl_lightning.base import ImageModule
from ssl_lightning.chunks import check_chunk_size, in_chunks
from ssl_lightning.distributed import gather_rows
from ssl_lightning.heads import mlp


def nt_xent(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Each of the 2B projections names its other view among the 2B - 1 others (equation 1, mean over all 2B).

    Args:
        z0: (B, D) projections of the first views.
        z1: (B, D) projections of the second views.
        temperature: Greater than 0.

    Returns:
        () float32.
    """
    with torch.autocast(z0.device.type, enabled=False):
        z = F.normalize(torch.cat([z0, z1]).float(), dim=1)
        logits = z @ z.T / temperature  # (2B, 2B)
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
    other_view = torch.arange(len(z), device=z.device).roll(len(z0))
    return F.cross_entropy(logits, other_view)


class SimCLR(ImageModule):
    """Two views of one picture attract, all other pictures of the batch repel.

    Args:
        temperature: Softness of the contrast; 0.1 suits large batches, 0.5 CIFAR-10 (appendix B.9).
        hidden_dim: Width of the projection head's hidden layer; None: the backbone's.
        projection_dim: Width of the projection z.
        chunk_size: Images that the backbone sees at a time, where memory cannot hold the batch; see docs/methods.md.
        optimizer: See SSLModule.
        lr: 0.3 for a batch of 256, section 2.2.
        weight_decay: Section 2.2.
        decay_norm_and_bias: The paper leaves biases and batch norm out of decay and adaptation.
        warmup_epochs: Section 2.2.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: ``temperature`` is not positive, or ``chunk_size`` less than 1.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        chunk_size: int | None = None,
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
        self.temperature, self.chunk_size = temperature, chunk_size
        dim = self.backbone.dim
        self.head = mlp(dim, hidden_dim or dim, projection_dim, norm=True, last_norm="affine")

    def default_views(self) -> SimCLRViews:
        return SimCLRViews()

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        x = torch.cat(batch.views)  # (2B, C, H, W): batch norm sees both views, section 2.1
        z0, z1 = self.head(in_chunks(self.backbone, x, self.chunk_size)).chunk(2)
        return nt_xent(gather_rows(z0), gather_rows(z1), self.temperature)
