import torch
from torch import nn

from ssl_lightning.heads import mlp


def kinds(net):
    return [type(layer).__name__ for layer in net]


def test_the_heads_of_the_papers():
    assert kinds(mlp(8, 4, norm=False)) == ["Linear"]  # MoCo v1
    assert kinds(mlp(8, 8, 4, norm=False)) == ["Linear", "ReLU", "Linear"]  # MoCo v2
    assert kinds(mlp(8, 8, 4, norm=True)) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]  # BYOL
    v3 = mlp(8, 16, 4, norm=True, last_norm="plain")
    assert kinds(v3) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert not v3[-1].affine
    assert v3[1].affine
    assert mlp(8, 8, 4, norm=True, last_norm="affine")[-1].affine


def test_a_layer_before_batch_norm_has_no_bias():
    net = mlp(8, 8, 8, 4, norm=True)
    assert [layer.bias is None for layer in net if isinstance(layer, nn.Linear)] == [True, True, False]
    assert net(torch.randn(3, 8)).shape == (3, 4)
