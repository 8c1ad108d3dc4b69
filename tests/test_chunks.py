"""A batch in chunks gives the gradient of the whole batch."""

import pytest
import torch
from torch import nn

from datamodules.batch import ImageTextBatch
from ssl_lightning.chunks import in_chunks
from ssl_lightning.methods import CLIP, MoCoV3, SimCLR
from tests.methods.tiny import VIT, make

BACKBONE = {"backbone": "vit_tiny_patch16_224", "backbone_args": VIT}  # has no batch norm


def gradients(model, rows=12):
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.rand(rows, 3, 16, 16, generator=generator) for _ in range(2))
    tokens = torch.randint(300, (rows, 24), generator=generator)
    out = model.training_step(
        ImageTextBatch(torch.zeros(rows), torch.zeros(rows), torch.arange(rows), tokens, views), 0
    )
    loss = out["loss"] if isinstance(out, dict) else out
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_size", [1, 5, 8, 100])
@pytest.mark.parametrize("cls", [CLIP, SimCLR, MoCoV3])
def test_the_gradient_is_that_of_the_whole_batch(cls, chunk_size):
    loss, whole = gradients(make(cls, **BACKBONE))
    chunked_loss, chunked = gradients(make(cls, **BACKBONE, chunk_size=chunk_size))
    torch.testing.assert_close(chunked_loss, loss, rtol=1e-6, atol=1e-6)
    assert chunked.keys() == whole.keys()
    for name, grad in whole.items():
        assert (chunked[name] - grad).norm() <= 1e-5 * max(1.0, grad.norm()), name


def test_the_loss_of_a_chunk_alone_has_another_gradient():
    _, whole = gradients(make(SimCLR, **BACKBONE))
    _, half = gradients(make(SimCLR, **BACKBONE), rows=6)
    name = "backbone.net.blocks.0.mlp.fc1.weight"
    assert (whole[name] - half[name]).norm() > 0.1 * whole[name].norm()


def test_the_second_pass_drops_what_the_first_has_dropped():
    net = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    x = torch.randn(10, 4)

    def run(encode):
        net.zero_grad()
        torch.manual_seed(1)
        z = encode()
        (z @ z.T).softmax(1).diagonal().sum().backward()
        return z.detach(), [p.grad.clone() for p in net.parameters()]

    z, expected = run(lambda: torch.cat([net(part) for part in x.split(3)]))
    again, found = run(lambda: in_chunks(net, x, 3))
    assert torch.equal(z, again)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_nothing_inside_of_a_chunk_is_kept():
    """What autograd saves outside of the second passes does not grow with the width of the network."""

    def saved(chunk_size, width):
        net = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, 3))
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            z = in_chunks(net, torch.randn(12, 4), chunk_size)
        z.sum().backward()
        return sum(kept)

    assert saved(None, 64) > 2 * saved(None, 16)
    assert saved(4, 64) == saved(4, 16)


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_a_chunk_of_nothing_is_an_error(chunk_size):
    with pytest.raises(
        ValueError, match=f"chunk_size must be at least 1, or null for the whole batch, got {chunk_size}"
    ):
        make(SimCLR, chunk_size=chunk_size)
