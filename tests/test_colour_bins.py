import math

import pytest
import torch

from ssl_lightning.colour_bins import ColourBins, gamut
from ssl_lightning.lab import rgb_to_lab


def test_the_gamut_has_261_bins():
    centres = gamut()
    assert len(centres) == 261
    assert len(centres.unique(dim=0)) == 261
    assert torch.equal(centres % 10, torch.zeros_like(centres))
    assert centres.amin(0).tolist() == [-90, -110]
    assert centres.amax(0).tolist() == [100, 90]


def test_every_colour_lies_in_a_bin():
    centres = gamut()
    x = torch.rand(1, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    ab = rgb_to_lab(x)[0, 1:].flatten(1).T
    assert (ab[:, None] - centres).abs().amax(2).amin(1).max() <= 5 + 1e-3


def colours(n, low=-128.0, high=128.0):
    return low + (high - low) * torch.rand(1, 2, n, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("reach", [20.0, 110.0])  # the middle, and the border with what lies outside of it
def test_the_five_nearest_bins_share_a_colour(reach):
    bins = ColourBins(0.5)
    x = rgb_to_lab(torch.rand(1, 3, 500, 1, generator=torch.Generator().manual_seed(0)))[:, 1:]
    mixed = x * 0.5 + x.roll(7, 2) * 0.5  # the mean of two colours, as a place of the output has it
    ab = torch.cat([x, mixed, colours(500, -reach, reach).clamp(-86, 98)], dim=2)
    nearest, share = bins.encode(ab)
    assert nearest.shape == share.shape == (1, 1500, 1, 5)
    distance = torch.cdist(ab[0, :, :, 0].T.double(), bins.centres.double())
    expected = distance.topk(5, largest=False).values
    got = distance.gather(1, nearest[0, :, 0])
    assert torch.allclose(got, expected, atol=1e-4)  # equal distances: either bin
    for i in range(0, 1500, 50):
        weights = [math.exp(-(d**2) / 50) for d in got[i].tolist()]
        assert share[0, i, 0].tolist() == pytest.approx([w / sum(weights) for w in weights], abs=1e-4)


def test_the_annealed_mean():
    bins = ColourBins(0.5)
    logits = torch.randn(2, 261, 3, 4, generator=torch.Generator().manual_seed(0))
    ab = bins.decode(logits, 0.38)
    for i, y, x in ((0, 0, 0), (1, 2, 3)):
        p = [math.exp(v / 0.38) for v in logits[i, :, y, x].tolist()]
        mean = [sum(q * c for q, c in zip(p, axis, strict=True)) / sum(p) for axis in bins.centres.T.tolist()]
        assert ab[i, :, y, x].tolist() == pytest.approx(mean, abs=1e-3)
    mode = bins.centres[logits.argmax(1)].permute(0, 3, 1, 2)
    assert torch.allclose(bins.decode(logits, 1e-4), mode, atol=1e-2)
    assert torch.isfinite(bins.decode(1000 * logits, 0.38)).all()


def test_weights_follow_equation_4():
    bins = ColourBins(0.5)
    counts = torch.zeros(261, dtype=torch.int64)
    counts[100:140] = torch.arange(1, 41) ** 3
    bins.set_counts(counts)
    assert torch.equal(bins.counts, counts)
    prior = (counts / counts.sum()).tolist()
    centres = bins.centres.tolist()
    spread = [[math.exp(-(math.dist(c, d) ** 2) / 50) for d in centres] for c in centres]
    share = [[v / sum(row) for v in row] for row in spread]  # of bin c, what goes to bin d
    smooth = [sum(prior[c] * share[c][d] for c in range(261)) for d in range(261)]
    assert sum(smooth) == pytest.approx(1)
    inverse = [1 / (0.5 * p + 0.5 / 261) for p in smooth]
    scale = sum(p * w for p, w in zip(smooth, inverse, strict=True))
    assert bins.weight.tolist() == pytest.approx([w / scale for w in inverse], rel=1e-4)
    assert bins.weight.max() / bins.weight.min() > 5  # rare colours count


def test_a_uniform_distribution_alone_weighs_all_alike():
    bins = ColourBins(1.0)
    bins.set_counts(torch.arange(261))
    assert torch.allclose(bins.weight, torch.ones(261))
    assert set(bins.state_dict()) == {"centres", "counts", "weight"}
