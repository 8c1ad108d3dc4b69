import pytest
import torch
from torch import nn

from ssl_lightning.backbones import build
from ssl_lightning.backbones.nin import NIN, nin3, nin4, nin5


@pytest.mark.parametrize(("make", "parameters"), [(nin3, 1_003_712), (nin4, 1_410_368), (nin5, 1_817_024)])
def test_size_is_that_of_the_authors_network(make, parameters):
    assert sum(p.numel() for p in make().parameters()) == parameters


def test_two_blocks_halve_the_map_and_the_others_keep_it():
    net, shapes = nin5(), {}
    for name, block in net.named_children():
        block.register_forward_hook(lambda m, i, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 192)
    later = {f"block{i}": (192, 8, 8) for i in (3, 4, 5)}
    assert shapes == {"block1": (96, 16, 16), "block2": (192, 8, 8), **later}


def test_any_number_of_channels():
    backbone = build("nin4", in_channels=5, image_size=16)
    assert backbone.dim == 192
    assert backbone(torch.rand(2, 5, 16, 16)).shape == (2, 192)


def test_weights_keep_the_scale_of_the_gradients():
    for module in nin4().modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_too_few_blocks_are_an_error():
    with pytest.raises(ValueError, match="blocks must be 3 or more, got 2"):
        NIN(2)
