import difflib

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from ssl_lightning.backbones import build, list_backbones

# One of each of torchvision's ways to end a network, ours, and some of timm's.
DIMS = {
    "convnet": 256,
    "resnet20": 64,
    "torchvision/resnet18": 512,
    "squeezenet1_1": 512,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 576,
    "shufflenet_v2_x0_5": 1024,
    "mnasnet0_5": 1280,
    "regnet_x_400mf": 400,
    "googlenet": 1024,
    "densenet121": 1024,
    "vgg11": 512,
    "timm/resnet18": 512,
    "resnet10t": 512,
    "mobilenetv3_small_050": 1024,
}


@pytest.mark.parametrize("name", DIMS)
def test_features_are_pooled_and_every_parameter_serves_them(name):
    backbone = build(name, image_size=32)
    features = backbone(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, backbone.dim) == (2, DIMS[name])
    assert features.isfinite().all()
    features.square().sum().backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []


def test_nothing_is_dropped_from_the_features():
    for name in ("mobilenet_v2", "squeezenet1_1", "googlenet", "shufflenet_v2_x0_5"):
        assert not any(isinstance(layer, nn.Dropout) for layer in build(name).modules()), name


def test_vision_transformers_follow_the_image_size():
    small = {"patch_size": 4, "depth": 2}
    vit = build("vit_tiny_patch16_224", image_size=32, **small)
    assert vit(torch.rand(2, 3, 32, 32)).shape == (2, vit.dim) == (2, 192)
    assert vit.net.pos_embed.shape == (1, 65, 192)
    assert build("vit_b_32", image_size=64).net.encoder.pos_embedding.shape == (1, 5, 768)


def test_a_network_is_the_library_s_own_without_classifier():
    x = torch.rand(2, 3, 64, 64)
    ours, plain = build("mobilenet_v2", image_size=64).eval(), models.mobilenet_v2().eval()
    missing = plain.load_state_dict(ours.net.state_dict(), strict=False)
    assert missing.missing_keys == ["classifier.1.weight", "classifier.1.bias"]
    assert missing.unexpected_keys == []
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pooled = plain.features((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)).mean((2, 3))
    torch.testing.assert_close(ours(x), pooled)


def test_building_leaves_the_network_as_the_library_made_it():
    backbone = build("resnet18", image_size=224)
    assert all(module.training for module in backbone.modules())
    assert all(value.device.type == "cpu" for value in backbone.state_dict().values())
    assert backbone.net.bn1.num_batches_tracked == 0
    torch.manual_seed(0)
    theirs = models.resnet18()
    torch.manual_seed(0)
    ours = build("resnet18", image_size=224).net
    assert torch.equal(theirs.layer4[1].conv2.weight, ours.layer4[1].conv2.weight)


def test_torchvision_wins_and_a_prefix_decides():
    assert isinstance(build("resnet18").net, models.ResNet)
    assert isinstance(build("torchvision/resnet18").net, models.ResNet)
    assert isinstance(build("timm/resnet18").net, timm.models.ResNet)
    assert build("resnet18").name == "torchvision/resnet18"
    assert build("resnet10t").name == "timm/resnet10t"
    assert build("ssl_lightning/convnet").name == build("convnet").name == "ssl_lightning/convnet"


def test_a_tag_of_timm_is_part_of_its_name():
    assert build("resnet18.a1_in1k").name == "timm/resnet18.a1_in1k"
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet18.a1'. Did you mean .*resnet18.a1_in1k"):
        build("resnet18.a1")


@pytest.mark.parametrize("name", ["resnet_18", "torchvision/resnet_18", "foo/resnet18", "torchvision/resnet10t"])
def test_an_unknown_name_lists_the_nearest(name):
    with pytest.raises(
        ValueError, match=rf"unknown backbone '{name}'. Did you mean .*resnet1.*`ssl-lightning backbones`"
    ):
        build(name)


def test_every_listed_name_is_listed_once_and_our_own_first():
    names = list_backbones()
    assert names[0] == "cfn"
    assert {"convnet", "resnet20"} < set(names[:12])
    assert len(set(names)) == len(names)
    assert {"resnet18", "timm/resnet18", "vit_small_patch16_224"} <= set(names)
    assert difflib.get_close_matches("resnet18", names, n=1) == ["resnet18"]


@pytest.mark.parametrize(
    ("name", "constructor"),
    [("resnet18", "ResNet"), ("timm/resnet18", "ResNet"), ("convnet", "ConvNet"), ("resnet20", "resnet20")],
)
def test_a_misspelt_argument_is_named_with_the_constructor(name, constructor):
    with pytest.raises(ValueError, match=f"{name} does not take 'widht': .* constructor {constructor}"):
        build(name, widht=3)


def test_an_argument_that_build_sets_is_refused():
    with pytest.raises(ValueError, match="in_chans of timm/resnet18 cannot be given"):
        build("timm/resnet18", in_chans=1)
    with pytest.raises(ValueError, match="weights of resnet18 cannot be given"):
        build("resnet18", weights="DEFAULT")


def test_arguments_reach_the_constructor():
    assert build("resnet50", image_size=32, width_per_group=128).net.layer1[0].conv1.out_channels == 128
    assert build("convnet", width=8).dim == 64


def test_an_image_size_that_the_network_cannot_take_is_refused_at_once():
    with pytest.raises(ValueError, match=r"inception_v3 cannot take images of 3x32x32: .*another image_size"):
        build("inception_v3", image_size=32)
    with pytest.raises(ValueError, match=r"vit_b_16 cannot be built with .*'image_size': 30.*patch size"):
        build("vit_b_16", image_size=30)


def test_a_network_without_pooled_features_is_refused():
    with pytest.raises(ValueError, match=r"timm/resnet10t must give features \(1, D\) .* \(1, 512, 8, 8\)"):
        build("resnet10t", image_size=64, global_pool="")


@pytest.mark.parametrize("channels", [1, 13])
@pytest.mark.parametrize("name", ["convnet", "resnet20", "resnet18", "densenet121", "timm/resnet18"])
def test_any_number_of_channels(name, channels):
    backbone = build(name, in_channels=channels, image_size=32)
    assert backbone(torch.rand(2, channels, 32, 32)).shape == (2, backbone.dim)


def test_a_new_first_convolution_keeps_the_scale_of_its_output():
    def scale(channels):
        conv = build("resnet18", in_channels=channels, small_stem=False).net.conv1
        assert (conv.stride, conv.padding, conv.bias) == ((2, 2), (3, 3), None)
        return conv(torch.randn(8, channels, 64, 64)).std().item()

    assert scale(1) == pytest.approx(scale(3), rel=0.1)
    assert scale(13) == pytest.approx(scale(3), rel=0.1)


def test_small_images_get_a_small_stem_in_resnets_of_both_libraries():
    x = torch.rand(1, 64, 32, 32)
    for name in ("resnet18", "timm/resnet18"):
        for size, small in ((64, True), (65, False)):
            backbone = build(name, image_size=size)
            assert backbone.small_stem is small
            assert backbone.net.conv1.kernel_size == ((3, 3) if small else (7, 7))
            assert backbone.net.maxpool(x).shape[-1] == (32 if small else 16)
    net = build("resnet18", image_size=32).net
    map_ = net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.conv1(torch.rand(1, 3, 32, 32)))))))
    assert map_.shape == (1, 512, 4, 4)


def test_the_stem_can_be_chosen():
    assert build("resnet18", image_size=96, small_stem=True).net.conv1.stride == (1, 1)
    assert build("resnet18", image_size=32, small_stem=False).net.conv1.stride == (2, 2)
    for name in ("convnet", "vit_tiny_patch16_224"):
        with pytest.raises(ValueError, match=f"small_stem: there is none for {name}"):
            build(name, small_stem=True)


def test_a_network_that_would_see_a_single_place_is_refused():
    too_small = r"convnext_atto makes a single place of images of 32 px: its layer stages.3.blocks.0.conv_dw would"
    with pytest.raises(
        ValueError, match=rf"{too_small}.* Choose a larger image_size, another backbone, or small_stem=F"
    ):
        build("convnext_atto", image_size=32)
    assert build("convnext_atto", image_size=64).map_shape("stages.3") == (320, 2, 2)
    with pytest.raises(ValueError, match=r"vit_b_32 makes a single place of images of 32 px: its layer conv_proj"):
        build("vit_b_32", image_size=32)
    with pytest.raises(ValueError, match=r"convnet makes a single place of images of 8 px: its layer layers.9"):
        build("convnet", image_size=8)
    with pytest.raises(ValueError, match=r"larger image_size, another backbone"):
        build("resnet18", image_size=4)


def test_its_own_stem_can_be_asked_for():
    backbone = build("resnet18", image_size=32, small_stem=False)
    assert backbone.map_shape("layer4") == (512, 1, 1)
    assert backbone.starved == "layer4.0.conv2"
    assert build("resnet18", image_size=224).starved is None


def test_the_normalisation_is_inside_and_in_the_state_dict():
    x = torch.rand(2, 3, 32, 32)
    backbone = build("convnet", image_size=32, norm="none", mean=[0.1, 0.2, 0.3], std=0.5)
    by_hand = torch.stack([(x[:, c] - 0.1 * (c + 1)) / 0.5 for c in range(3)], dim=1)
    torch.testing.assert_close(backbone(x), backbone.net(by_hand))
    other = build("convnet", image_size=32, norm="none")
    other.load_state_dict(backbone.state_dict())
    assert torch.equal(other(x), backbone(x))
    assert not any(key in ("mean", "std") for key, _ in backbone.named_parameters())


def test_without_three_channels_the_input_lies_between_minus_one_and_one():
    backbone = build("convnet", in_channels=2, image_size=32)
    assert backbone.mean.flatten().tolist() == backbone.std.flatten().tolist() == [0.5, 0.5]
    x = torch.rand(2, 2, 32, 32)
    torch.testing.assert_close(backbone(x), backbone.net(2 * x - 1))


def test_a_normalisation_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"mean must be one number .* each of the 3 channels, got \[0.5, 0.5\]"):
        build("convnet", mean=[0.5, 0.5])
    with pytest.raises(ValueError, match="std must be above 0 in every channel, got 0"):
        build("convnet", std=0)


def test_features_stay_in_place_under_channels_last():
    backbone, x = build("resnet18", image_size=32).eval(), torch.rand(2, 3, 32, 32)
    before = backbone(x)
    backbone.to(memory_format=torch.channels_last)
    assert F.mse_loss(backbone(x.contiguous(memory_format=torch.channels_last)), before) < 1e-8
