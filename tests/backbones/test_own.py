import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_lightning.backbones.cifar_resnet import Block, resnet20, resnet32, resnet56, resnet110
from ssl_lightning.backbones.convnet import ConvNet
from ssl_lightning.backbones.lenet import LeNet5
from ssl_lightning.backbones.wide_resnet import wrn28_2, wrn28_8, wrn28_10


def millions(net):
    return sum(p.numel() for p in net.parameters()) / 1e6


@pytest.mark.parametrize(
    ("build", "layers", "size"),
    [(resnet20, 20, 0.27), (resnet32, 32, 0.46), (resnet56, 56, 0.85), (resnet110, 110, 1.73)],
)
def test_depth_and_size_are_the_paper_s(build, layers, size):
    net = build()
    convs = sum(isinstance(module, nn.Conv2d) for module in net.modules())
    assert convs + 1 == layers  # and the classifier
    assert millions(net) + 64 * 10 / 1e6 == pytest.approx(size, abs=0.005)  # the paper's table 6


@pytest.mark.parametrize(("build", "size"), [(wrn28_2, 1.5), (wrn28_8, 23.4), (wrn28_10, 36.5)])
def test_wide_residual_networks_have_the_sizes_of_the_papers(build, size):
    net = build()
    assert sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in net.modules()) + 3 == 28
    assert millions(net) + net.bn.num_features * 10 / 1e6 == pytest.approx(size, abs=0.05)


def test_a_wide_residual_network_of_another_depth_is_refused():
    with pytest.raises(ValueError, match=r"6 n \+ 4"):
        wrn28_2(depth=20)


def test_the_three_stages_halve_the_map_and_double_the_channels():
    net = resnet20()
    x = net.conv1(torch.rand(1, 3, 32, 32))
    shapes = []
    for stage in (net.layer1, net.layer2, net.layer3):
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_a_shortcut_picks_every_second_place_and_pads_with_zeros():
    block = Block(2, 4, 2)
    nn.init.zeros_(block.bn2.weight)  # what is left is the shortcut
    x = torch.rand(1, 2, 4, 4)
    out = block(x)
    assert torch.equal(out[:, :2], x[:, :, [0, 2]][:, :, :, [0, 2]])
    assert torch.equal(out[:, 2:], torch.zeros(1, 2, 2, 2))


def test_convnet_takes_about_four_million_macs():
    macs = 0

    def count(conv, inputs, output):
        nonlocal macs
        macs += output[0].numel() * conv.weight[0].numel()

    net = ConvNet()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    net(torch.rand(2, 3, 32, 32))
    assert 3.5e6 < macs < 4.5e6


@pytest.mark.parametrize(("norm", "alone"), [("batch", False), ("group", True), ("none", True)])
def test_without_batch_norm_an_image_does_not_see_its_batch(norm, alone):
    net = ConvNet(norm=norm)
    x = torch.rand(4, 3, 32, 32)
    assert torch.allclose(net(x)[:2], net(x[:2]), atol=1e-5) == alone


def test_the_scale_of_the_activations_survives_the_layers():
    net = ConvNet(norm="none", width=64)
    x = torch.randn(16, 3, 64, 64)
    scales = []
    for layer in net.layers:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            scales.append(x.square().mean().item())
    # The zeros around the border take some of it.
    assert all(0.4 < scale < 1.2 for scale in scales)


def test_features_are_the_mean_over_the_places():
    net = ConvNet(width=8)
    x = torch.rand(2, 3, 48, 48)
    assert torch.allclose(net(x), F.adaptive_avg_pool2d(net.layers(x), 1).flatten(1))
    assert net(x).shape == (2, 64)


def test_convnet_refuses_what_it_cannot_build():
    with pytest.raises(ValueError, match=r"norm must be .* got 'layer'"):
        ConvNet(norm="layer")
    with pytest.raises(ValueError, match=r"width must be a multiple of 8 .* got 12"):
        ConvNet(norm="group", width=12)


def test_the_layers_of_lenet_are_the_paper_s():
    net, shapes, x = LeNet5(), [], torch.zeros(1, 1, 32, 32)
    for layer in (*net.c1, *net.c3, *net.c5):
        x = layer(x)
        if not isinstance(layer, nn.Tanh):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1)]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in (net.c1, net.c3, net.c5, net.f6)]
    assert sizes == [156, 2_416, 48_120, 10_164]


def test_of_larger_images_lenet_averages_its_last_map():
    net, x = LeNet5(3), torch.rand(2, 3, 40, 40)
    assert torch.allclose(net(x), net.f6(net.c5(net.c3(net.c1(x))).mean((2, 3))))
    assert net.c5(net.c3(net.c1(x))).shape == (2, 120, 3, 3)
