"""Projection and prediction heads."""

from itertools import pairwise
from typing import Literal

from torch import nn

LastNorm = Literal["none", "affine", "plain"]


def mlp(*sizes: int, norm: bool, last_norm: LastNorm = "none") -> nn.Sequential:
    """Linear layers with ReLU between them.

    Args:
        sizes: Input, hidden and output widths; two of them make a single linear layer.
        norm: Batch norm after each hidden layer, whose bias it replaces.
        last_norm: Batch norm after the last layer, with (``affine``) or without (``plain``) scale and shift.
    """
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        has_norm = last_norm != "none" if last else norm
        layers.append(nn.Linear(n_in, n_out, bias=not has_norm))
        if has_norm:
            layers.append(nn.BatchNorm1d(n_out, affine=not last or last_norm == "affine"))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
