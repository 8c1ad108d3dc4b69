"""Each loss against a loop written from its equation, in float64."""

import math

import lightly.loss
import pytest
import torch
from torch.nn import functional as F

from ssl_lightning.losses import info_nce
from ssl_lightning.methods.contrastive.moco_v3 import contrast
from ssl_lightning.methods.contrastive.simclr import nt_xent


def unit(rows):
    return [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows.double().tolist()]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cross_entropy(logits, target):
    return math.log(sum(math.exp(v) for v in logits)) - logits[target]


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("b", [1, 5])
def test_nt_xent_is_equation_1_of_simclr(b, temperature):
    torch.manual_seed(b)
    z0, z1 = torch.randn(b, 6), torch.randn(b, 6)
    z = unit(torch.cat([z0, z1]))
    total = 0.0
    for i in range(2 * b):
        others = [k for k in range(2 * b) if k != i]
        total += cross_entropy([dot(z[i], z[k]) / temperature for k in others], others.index((i + b) % (2 * b)))
    assert nt_xent(z0, z1, temperature).item() == pytest.approx(total / (2 * b), rel=1e-5)


def test_nt_xent_equals_lightlys_in_value_and_gradient():
    torch.manual_seed(0)
    z0, z1 = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    ours = torch.autograd.grad(nt_xent(z0, z1, 0.2), [z0, z1])
    theirs = torch.autograd.grad(lightly.loss.NTXentLoss(temperature=0.2)(z0, z1), [z0, z1])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_info_nce_is_equation_1_of_moco():
    torch.manual_seed(0)
    q, k, negatives = (F.normalize(torch.randn(n, 6), dim=1) for n in (4, 4, 9))
    total = 0.0
    for i in range(4):
        logits = [dot(q[i].tolist(), k[i].tolist()), *(dot(q[i].tolist(), n) for n in negatives.tolist())]
        total += cross_entropy([v / 0.2 for v in logits], 0)
    assert info_nce(q, k, negatives, 0.2).item() == pytest.approx(total / 4, rel=1e-5)


def test_contrast_is_ctr_of_moco_v3():
    torch.manual_seed(0)
    q, k = torch.randn(4, 6), torch.randn(4, 6)
    qs, ks = unit(q), unit(k)
    total = sum(cross_entropy([dot(qs[i], ks[j]) / 0.2 for j in range(4)], i) for i in range(4))
    assert contrast(q, k, 0.2).item() == pytest.approx(2 * 0.2 * total / 4, rel=1e-5)


@pytest.mark.parametrize("loss", [nt_xent, contrast])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_under_autocast(loss, dtype):
    torch.manual_seed(0)
    q, k = torch.randn(4, 6, dtype=dtype), torch.randn(4, 6, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(q, k, 0.07)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(q.float(), k.float(), 0.07))


def test_info_nce_is_close_to_float32_under_autocast():
    torch.manual_seed(0)
    q, k, negatives = (F.normalize(torch.randn(n, 128), dim=1) for n in (8, 8, 512))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = info_nce(q, k, negatives, 0.07)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, info_nce(q, k, negatives, 0.07), rtol=2e-2, atol=0)
