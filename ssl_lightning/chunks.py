"""Batches larger than the memory holds, for losses that look at the whole batch.

Gao, Zhang, Han, Callan, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021.
https://arxiv.org/abs/2101.06983
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(encode: Callable[[Tensor], Tensor], x: Tensor, chunk_size: int | None) -> Tensor:
    """``encode(x)`` in chunks of rows, of which only the results are kept.

    The loss and its gradient by the results see the whole batch; then a chunk at a time is computed again, with the
    same dropout, and takes its part of the gradient back to the weights. The gradient is that of the whole batch, the
    memory that of one chunk, the cost a second forward pass. Accumulation over batches would be another loss.

    Batch norm inside of ``encode`` sees a chunk as its batch, and its running statistics see every chunk twice.

    Args:
        encode: (B, ...) -> (B, D), row by row.
        x: (B, ...).
        chunk_size: Rows of a chunk; None: all.

    Returns:
        (B, D).
    """
    if chunk_size is None or chunk_size >= len(x):
        return encode(x)
    if not torch.is_grad_enabled():
        return torch.cat([encode(part) for part in x.split(chunk_size)])
    return torch.cat([checkpoint(encode, part, use_reentrant=False) for part in x.split(chunk_size)])


def check_chunk_size(chunk_size: int | None) -> None:
    """
    Raises:
        ValueError: not None, and less than 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, or null for the whole batch, got {chunk_size}")
