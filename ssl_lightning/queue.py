"""The queue of earlier steps' keys."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_lightning.distributed import gather_rows


class Queue(nn.Module):
    """The last ``size`` keys of all processes, first in, first out (MoCo, section 3.2).

    lightly's memory bank is not used: it is not in the checkpoint, drops the tail of a batch at the wrap, and under a
    symmetric loss lets a query meet its own view as a negative.

    Args:
        size: Number of keys K.
        dim: Width of a key.

    Attributes:
        keys: (K, dim) float32, L2-normalised; random before the first K keys have come in. Saved in checkpoints.
        pointer: () int64, the place that the next key takes. Saved in checkpoints.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put the keys of all processes, (B, dim) on each, in the place of the oldest."""
        keys = gather_rows(keys.float())
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[places] = keys
        self.pointer.copy_((self.pointer + len(keys)) % len(self.keys))
