"""The loss of MultiTag: 1/k for each of k tags."""

import math

import pytest
import torch
from torch.nn import functional as F

from datamodules.batch import TaggedBatch
from ssl_lightning.losses import tag_cross_entropy
from ssl_lightning.methods import MultiTag
from tests.methods.tiny import make

TAGS = [[2], [0, 3], [4, 1, 0]]
FILLED = torch.tensor([[2, -1, -1], [0, 3, -1], [4, 1, 0]])


def test_the_loss_is_that_of_a_loop_in_float64():
    logits = 3 * torch.randn(3, 5)
    total = 0.0
    for row, tags in zip(logits.double().tolist(), TAGS, strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        total -= sum((row[tag] - norm) / len(tags) for tag in tags)
    assert tag_cross_entropy(logits, FILLED).item() == pytest.approx(total / 3, rel=1e-6)


def test_the_gradient_is_that_of_the_cross_entropy_with_a_soft_target():
    logits = torch.randn(3, 5, requires_grad=True)
    target = torch.zeros(3, 5)
    for row, tags in enumerate(TAGS):
        target[row, tags] = 1 / len(tags)
    (ours,) = torch.autograd.grad(tag_cross_entropy(logits, FILLED), logits)
    (theirs,) = torch.autograd.grad(F.cross_entropy(logits, target), logits)
    torch.testing.assert_close(ours, theirs)


def test_an_image_without_a_tag_has_the_loss_0():
    logits = torch.randn(2, 5, requires_grad=True)
    loss = tag_cross_entropy(logits, torch.tensor([[1, 2], [-1, -1]]))
    assert loss.item() == pytest.approx(tag_cross_entropy(logits[:1], torch.tensor([[1, 2]])).item() / 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()


def test_the_loss_is_float32_of_half_precision():
    assert tag_cross_entropy(torch.randn(3, 5).bfloat16(), FILLED).dtype == torch.float32


def test_a_hit_is_an_image_whose_likeliest_tag_is_one_of_its_own():
    model = make(MultiTag, num_tags=5)
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])  # always the tag 3
    image = torch.zeros(3, 3, 16, 16)
    zeros = torch.zeros(3, dtype=torch.int64)
    out = model.training_step(TaggedBatch(image, zeros, zeros, FILLED, (image,)), 0)
    assert out["hit"].item() == pytest.approx(1 / 3)
    norm = math.log(math.e + 4)
    assert out["loss"].item() == pytest.approx((norm + norm - 0.5 + norm) / 3, rel=1e-5)


def test_one_tag_is_an_error():
    with pytest.raises(ValueError, match="num_tags must be at least 2, got 1"):
        make(MultiTag, num_tags=1)
