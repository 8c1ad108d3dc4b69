"""Losses: pure functions of tensors, in float32 under autocast too."""

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(q: Tensor, k: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Each query names its key among its key and the negatives (MoCo, equation 1).

    Args:
        q: (B, D) queries, L2-normalised.
        k: (B, D) their keys, L2-normalised.
        negatives: (K, D) keys of other images, L2-normalised.
        temperature: Greater than 0.

    Returns:
        () float32.
    """
    positive = (q * k).sum(dim=1, keepdim=True)  # (B, 1)
    logits = torch.cat([positive, q @ negatives.T], dim=1).float() / temperature  # (B, 1 + K)
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


def tag_cross_entropy(logits: Tensor, tags: Tensor) -> Tensor:
    """Cross entropy with the target 1/k for each of the k tags of an image, in the mean over images.

    Args:
        logits: (B, T).
        tags: (B, K) int64 in 0 ... T - 1, filled with -1. A row without a tag has the loss 0.

    Returns:
        () float32.
    """
    given = tags >= 0
    log_p = logits.float().log_softmax(1).gather(1, tags.clamp(min=0)).masked_fill(~given, 0.0)
    return -(log_p.sum(1) / given.sum(1).clamp(min=1)).mean()
