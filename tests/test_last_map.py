import pytest
import torch

from ssl_lightning.backbones import build
from ssl_lightning.last_map import last_map


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("convnet", 32, (256, 2, 2)),
        ("resnet20", 32, (64, 8, 8)),
        ("resnet18", 32, (512, 4, 4)),
        ("cfn", 64, (256, 3, 3)),
        ("alexnet", 128, (256, 3, 3)),
        ("vit_tiny_patch16_224", 224, (192, 14, 14)),  # tokens, without that of the class
        ("timm/swin_tiny_patch4_window7_224", 224, (768, 7, 7)),  # channels last
    ],
)
def test_it_is_what_the_pooling_sees_and_all_that_makes_it_learns(name, size, shape):
    backbone = build(name, 1, size)
    layer = last_map(backbone)
    assert backbone.map_shape(layer) == shape
    assert all(p.requires_grad for p in backbone.parameters())
    assert backbone.training


def test_what_lies_behind_is_frozen():
    backbone = build("mobilenetv3_small_100", 1, 64)
    layer = last_map(backbone)
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"net.conv_head.weight", "net.conv_head.bias"}  # after the pooling
    backbone.layer_map(torch.rand(2, 1, 64, 64), layer).sum().backward()
    assert {name for name, p in backbone.named_parameters() if p.grad is None} == frozen


def test_images_too_small_for_a_map():
    with pytest.raises(ValueError, match=r"convnet makes a single place of images of 16 px, by net\.layers"):
        last_map(build("convnet", 1, 16))
    with pytest.raises(ValueError, match="makes a single place of images of 2 px"):
        last_map(build("convnet", 1, 2))
