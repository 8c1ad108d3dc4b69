"""The one thing a loss has to know of other processes: how to see their rows."""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Number of processes, 1 where torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _GatherRows(torch.autograd.Function):
    """Every process computes the whole loss L from all rows. The gradients that the W copies of L send back to a
    row add up to W dL/drow, and DistributedDataParallel's mean over processes divides by W: what is left is the
    gradient of one process with the joint batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[dist.get_rank() * ctx.rows :][: ctx.rows]


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of ranks, with gradients.

    Args:
        x: (B, ...) with the same B on every process.

    Returns:
        (W B, ...) on W processes; ``x`` itself on one.
    """
    return _GatherRows.apply(x.contiguous()) if world_size() > 1 else x


def mean_count(count: Tensor) -> Tensor:
    """A number that differs between processes -> () float32, its mean over them.

    A process that divides its sum by it gives a loss whose mean over processes, which is what
    DistributedDataParallel takes of the gradients, is the mean over the joint batch.
    """
    return gather_rows(count.float().reshape(1)).mean()
