"""The architectures of the field's history: their published sizes, and what they make of 32 px."""

from typing import Any

import pytest
import torch
from torchvision import models

from ssl_lightning.backbones import build
from ssl_lightning.backbones.surgery import remove_classifier

FC: dict[str, Any] = {"fully_connected": True}
# parameters with the classifier of the paper: of 1000 classes, of LeNet and the ResNets for CIFAR 10
PUBLISHED = {
    "lenet5": 61_706,
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "googlenet": 6_624_904,  # without auxiliary heads
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "densenet121": 7_978_856,
    "densenet201": 20_013_928,
    "densenet264": 33_337_704,
    "mobilenetv1_100": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "timm/mobilenetv3_small_100": 2_542_856,
    "timm/mobilenetv3_large_100": 5_483_032,
    "seresnet50": 28_088_024,
    "seresnet152": 66_821_848,
    "senet154": 115_088_984,
    "hrnet_w18": 21_299_004,
    "hrnet_w32": 41_232_680,
    "hrnet_w48": 77_469_864,
    "vit_tiny_patch16_224": 5_717_416,
    "vit_small_patch16_224": 22_050_664,
    "vit_base_patch16_224": 86_567_656,
    "vit_large_patch16_224": 304_326_632,
    "vit_huge_patch14_224": 632_045_800,
}
# the smallest of each family -> features, and the side of the last map of 32 px
SMALLEST = {
    "lenet5": (84, 1),  # C5 is a convolution over all of its map
    "alexnet": (256, 3),
    "vgg11": (512, 2),
    "googlenet": (1024, 8),
    "resnet18": (512, 4),
    "resnet20": (64, 8),
    "densenet121": (1024, 4),
    "mobilenetv1_100": (1024, 2),
    "mobilenet_v2": (1280, 2),
    "mobilenet_v3_small": (576, 2),
    "seresnet18": (512, 4),
    "hrnet_w18_small": (2048, 4),
    "vit_tiny_patch16_224": (192, 2),
}
LARGE = {"senet154": 4, "densenet264": 4, "hrnet_w48": 4, "resnet152": 4}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(name):
    own = name in ("lenet5", "resnet20", "resnet56", "resnet110")
    with torch.device("meta"):
        backbone = build(name, 1 if name == "lenet5" else 3, image_size=32 if own else 224, **by_name(name))
    count = sum(p.numel() for p in backbone.parameters())
    assert count + (backbone.dim + 1) * (10 if own else 1000) == PUBLISHED[name]


def by_name(name: str) -> dict[str, Any]:
    return FC if name.startswith(("alexnet", "vgg")) else {}


@pytest.mark.parametrize("name", SMALLEST)
def test_of_32_px_it_makes_features_from_a_map(name):
    dim, side = SMALLEST[name]
    backbone = build(name, image_size=32).eval()
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, backbone.dim) == (2, dim)
    assert features.isfinite().all()
    assert backbone.map_shape(backbone.blocks()[-1])[1] == side
    assert backbone.starved is None


@pytest.mark.parametrize("name", LARGE)
def test_of_32_px_the_large_ones_keep_a_map_too(name):
    with torch.device("meta"):
        backbone = build(name, image_size=32)
    assert backbone.map_shape(backbone.blocks()[-1])[1] == LARGE[name]
    assert backbone.starved is None


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn"])
def test_the_fully_connected_layers_can_be_kept(name):
    """They are the library's own, so that the features with its last layer give its classes."""
    backbone, plain = build(name, image_size=64, small_stem=False, **FC).eval(), models.get_model(name).eval()
    assert backbone.dim == 4096
    plain.load_state_dict(backbone.net.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain.classifier[-1](backbone(x)), plain(backbone.normalise(x)))
    assert build(**backbone.recipe).dim == 4096
    with pytest.raises(ValueError, match="fully_connected is for AlexNet and VGG of torchvision, not for resnet18"):
        build("resnet18", **FC)


def test_densenet_264_is_torchvision_s_with_its_blocks():
    with torch.device("meta"):
        ours = build("densenet264", image_size=224).net
        plain = models.DenseNet(32, (6, 12, 64, 48), 64)
    remove_classifier(plain)
    assert list(ours.state_dict()) == list(plain.state_dict())
