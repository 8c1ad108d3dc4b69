"""Colours as classes: the plane of a and b in squares, and how often each occurs.

Richard Zhang, Phillip Isola, Alexei A. Efros, Colorful Image Colorization, 2016. https://arxiv.org/abs/1603.08511
"""

import torch
from torch import Tensor, nn

from ssl_lightning.lab import rgb_to_lab

GRID = 10.0  # side of a bin, section 2.1
NEIGHBOURS, SIGMA = 5, 5.0  # of the soft encoding, section 2.1
CELL = 5.0  # side of a square of the table of near bins


def gamut() -> Tensor:
    """Centres (Q, 2) of the squares of a grid in which colours of sRGB lie: Q = 261.

    The paper has 313 by a rule that its authors have not published. The squares are those of all 8-bit colours; it is
    enough to look at the faces of the cube, whose shadow in the plane is that of the whole.
    """
    level = torch.arange(256) / 255
    u, v = (c.flatten() for c in torch.meshgrid(level, level, indexing="ij"))
    faces = []
    for end in (torch.zeros_like(u), torch.ones_like(u)):
        faces += [torch.stack(rgb) for rgb in ((end, u, v), (u, end, v), (u, v, end))]
    ab = rgb_to_lab(torch.stack(faces)[..., None])[:, 1:, :, 0]  # (6, 2, 65536)
    a, b = (ab / GRID).round().long().unbind(1)
    squares = torch.unique(a * 100 + b)
    a = (squares / 100).round()
    return torch.stack([a, squares - 100 * a], dim=1) * GRID


class ColourBins(nn.Module):
    """The bins of the gamut, how often each occurs in the training set, and the weight that it has in the loss.

    Args:
        uniform_weight: Share lambda of the uniform distribution in that which the weights are the inverse of.

    Attributes:
        centres: (Q, 2) a and b. Saved in checkpoints, as what follows.
        counts: (Q,) int64 how many places of the training set have been found in each bin: the prior, but for its sum;
            all 0 before any were counted.
        weight: (Q,) float32 of the loss; all 1 before any were counted.
    """

    centres: Tensor
    counts: Tensor
    weight: Tensor
    near: Tensor
    corner: Tensor

    def __init__(self, uniform_weight: float) -> None:
        super().__init__()
        centres = gamut()
        self.uniform_weight = uniform_weight
        self.register_buffer("centres", centres)
        self.register_buffer("counts", torch.zeros(len(centres), dtype=torch.int64))
        self.register_buffer("weight", torch.ones(len(centres)))
        # For each square of CELL the bins that can be among the nearest of a place in it: no place is farther from the
        # square's middle than half a diagonal, so a place's n-th bin is at most a diagonal farther than the middle's.
        low, high = centres.amin(0) - GRID / 2, centres.amax(0) + GRID / 2
        a, b = (torch.arange(int(lo), int(hi), CELL) + CELL / 2 for lo, hi in zip(low, high, strict=True))
        middle = torch.stack(torch.meshgrid(a, b, indexing="ij"), dim=-1)  # (A, B, 2)
        distance, order = (middle[:, :, None] - centres).norm(dim=-1).sort(dim=-1)
        enough = distance <= distance[..., NEIGHBOURS - 1, None] + CELL * 2**0.5 + 1e-3
        self.register_buffer("near", order[..., : int(enough.sum(-1).max())].clone(), persistent=False)
        self.register_buffer("corner", low, persistent=False)

    def __len__(self) -> int:
        return len(self.centres)

    def encode(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """The five nearest bins of each place, and the share of each by a Gaussian of its distance.

        Args:
            ab: (B, 2, H, W) float32.

        Returns:
            (B, H, W, 5) int64 bins, the nearest first, and (B, H, W, 5) float32 shares, which add up to 1.
        """
        ab = ab.permute(0, 2, 3, 1)
        a, b = ((ab - self.corner) / CELL).long().unbind(-1)
        near = self.near[a.clamp(0, self.near.shape[0] - 1), b.clamp(0, self.near.shape[1] - 1)]  # (B, H, W, M)
        distance = (self.centres[near] - ab[..., None, :]).square().sum(-1)
        distance, nearest = distance.topk(NEIGHBOURS, largest=False)
        return near.gather(-1, nearest), (-distance / (2 * SIGMA**2)).softmax(-1)

    def decode(self, logits: Tensor, temperature: float) -> Tensor:
        """The annealed mean (equation 5): logits (B, Q, H, W) -> a and b (B, 2, H, W) float32.

        At 1 it is the mean of the distribution, towards 0 its mode.
        """
        with torch.autocast(logits.device.type, enabled=False):
            return torch.einsum("bqhw,qc->bchw", (logits.float() / temperature).softmax(1), self.centres)

    def set_counts(self, counts: Tensor) -> None:
        """Sets the prior and from it the weights (equation 4): w ~ ((1 - lambda) p + lambda / Q)^-1, E[w] = 1.

        p is the prior, smoothed by a Gaussian of SIGMA over the bins.

        Args:
            counts: (Q,) int64, not all 0.
        """
        self.counts.copy_(counts)
        spread = (-torch.cdist(self.centres, self.centres).double().square() / (2 * SIGMA**2)).exp()
        p = (spread / spread.sum(0)) @ (self.counts / self.counts.sum()).double()  # a column spreads one bin
        w = 1 / ((1 - self.uniform_weight) * p + self.uniform_weight / len(p))
        self.weight.copy_(w / (p * w).sum())
