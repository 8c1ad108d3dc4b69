import torch
from torch import nn

from ssl_lightning.backbones import build
from ssl_lightning.backbones.cfn import CFN


def sides(net, size):
    found, x = [], torch.zeros(1, 3, size, size)
    for block in net.children():
        x = block(x)
        found.append(x.shape[-1])
    return found


def test_a_tile_of_64_px_ends_in_a_map_of_3x3():
    net = CFN()
    assert sides(net, 64) == [13, 6, 6, 6, 3]  # rounded down, the pooling would leave 2
    x = torch.rand(2, 3, 64, 64)
    last = x
    for block in net.children():
        last = block(last)
    assert torch.equal(net(x), last.flatten(1))


def test_its_size_with_the_puzzle_s_layers_is_the_paper_s():
    net = CFN()
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [96, 256, 384, 384, 256]
    assert [c.groups for c in convolutions] == [1, 2, 1, 2, 2]
    fc = 2304 * 512 + 9 * 512 * 4096 + 4096 * 1000
    assert abs((sum(p.numel() for p in net.parameters()) + fc) / 27.5e6 - 1) < 0.05  # section 3.2: 27.5 million


def test_it_takes_whole_images():
    backbone = build("cfn", image_size=255)
    assert backbone.dim == 2304
    assert backbone.blocks() == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert backbone(torch.rand(1, 3, 255, 255)).shape == (1, 2304)
