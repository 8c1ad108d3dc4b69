import copy

import pytest
import torch
from torch import nn

from ssl_lightning.backbones import build
from ssl_lightning.backbones.backbone import Backbone
from ssl_lightning.lab import rgb_to_lab

VIT = {"patch_size": 8, "depth": 3}


def stages(*names):
    return [name.replace("*", str(i)) for name in names for i in (range(4) if "*" in name else [0])]


@pytest.mark.parametrize(
    ("name", "size", "blocks"),
    [
        ("convnet", 32, ["layers.2", "layers.5", "layers.8", "layers.11"]),
        ("resnet20", 32, ["bn1", "layer1", "layer2", "layer3"]),
        ("nin4", 32, ["block1", "block2", "block3", "block4"]),
        ("resnet18", 32, ["maxpool", "layer1", "layer2", "layer3", "layer4"]),
        ("resnet18", 128, ["maxpool", "layer1", "layer2", "layer3", "layer4"]),  # an index means the same at any size
        ("timm/resnet18", 32, ["maxpool", "layer1", "layer2", "layer3", "layer4"]),
        ("alexnet", 64, ["features.2", "features.5", "features.7", "features.9", "features.12"]),
        ("convnext_atto", 64, stages("stem", "stages.*")),
        ("levit_128s", 224, ["stem", "stages.0", "stages.1", "stages.2"]),
        ("efficientnet_b0", 64, [f"features.{i}" for i in range(9)]),
        ("timm/efficientnet_b0", 64, ["bn1", *(f"blocks.{i}" for i in range(7)), "bn2"]),
        ("vit_b_16", 32, ["conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in range(12))]),
        (
            "xcit_nano_12_p16_224",
            64,
            ["pos_embed", *(f"blocks.{i}" for i in range(12)), *stages("cls_attn_blocks.*")[:2]],
        ),
    ],
)
def test_blocks_are_what_one_calls_so(name, size, blocks):
    assert build(name, image_size=size).blocks() == blocks


def test_blocks_of_a_vision_transformer_are_its_layers():
    backbone = build("vit_tiny_patch16_224", image_size=32, **VIT)
    assert backbone.blocks() == ["patch_embed", "blocks.0", "blocks.1", "blocks.2"]


def plain(backbone, x):
    """What the backbone gives its net, in the same memory format."""
    seen = []
    hook = backbone.net.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    backbone(x)
    hook.remove()
    torch.testing.assert_close(seen[0], (x - backbone.mean) / backbone.std)
    return seen[0]


def test_the_layers_of_a_resnet_give_the_means_of_their_maps():
    backbone = build("resnet18", image_size=32).eval()
    x = torch.rand(2, 3, 32, 32)
    net = backbone.net
    one = net.layer1(net.relu(net.bn1(net.conv1(plain(backbone, x)))))
    inside = net.layer2[0](one)
    found = backbone.layer_features(x, ["layer2.0", "layer1", "layer4", "fc"])
    assert list(found) == ["layer2.0", "layer1", "layer4", "fc"]
    assert torch.equal(found["layer1"], one.mean((2, 3)))
    assert torch.equal(found["layer2.0"], inside.mean((2, 3)))
    torch.testing.assert_close(found["layer4"], backbone(x))
    assert torch.equal(found["fc"], backbone(x))  # a vector stays as it is
    assert torch.equal(backbone.layer_map(x, "layer1"), one)
    assert backbone.map_shape("layer1") == (64, 32, 32)
    assert [backbone.layer_dim(layer) for layer in ("layer1", "layer2.0", "fc")] == [64, 128, 512]


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_tokens_are_pooled_as_the_backbone_pools_them(pool):
    backbone = build("vit_tiny_patch16_224", image_size=32, **VIT, global_pool=pool).eval()
    x, net = torch.rand(2, 3, 32, 32), backbone.net
    tokens = net.forward_features(plain(backbone, x))  # 16 places and a class token, after the last norm
    found = backbone.layer_features(x, ["patch_embed", "blocks.0", "norm"])
    expected = tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(1)
    torch.testing.assert_close(found["norm"], expected)
    if pool == "token":
        torch.testing.assert_close(found["norm"], backbone(x))
    places = net.patch_embed(plain(backbone, x))  # (2, 16, 192): no class token yet
    torch.testing.assert_close(found["patch_embed"], places.mean(1))
    places = places.view(2, 4, 4, 192)
    assert torch.equal(backbone.layer_map(x, "patch_embed"), places.permute(0, 3, 1, 2))
    assert backbone.map_shape("blocks.0") == (192, 4, 4)


def test_torchvision_s_transformer_has_a_class_token_too():
    backbone = build("vit_b_16", image_size=32).eval()
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(backbone.layer_features(x, ["encoder.ln"])["encoder.ln"], backbone(x))


@pytest.mark.parametrize(("name", "size"), [("swin_t", 64), ("swin_t", 384), ("swin_tiny_patch4_window7_224", 64)])
def test_maps_with_the_channels_last_are_put_in_order(name, size):
    """At 384 px the first map is 96 x 96 x 96, whose order its shape does not tell."""
    backbone = build(name, image_size=size, **({"window_size": 4} if "window" in name else {})).eval()
    x = torch.rand(1, 3, size, size)
    block = backbone.blocks()[0]
    out = backbone.net.get_submodule(block)(plain(backbone, x))  # (1, H, W, 96)
    assert torch.equal(backbone.layer_map(x, block), out.permute(0, 3, 1, 2))
    torch.testing.assert_close(backbone.layer_features(x, [block])[block], out.mean((1, 2)))


def test_a_map_of_equal_sides_has_its_channels_first_in_other_networks():
    backbone = build("convnet", image_size=16, width=8).eval()
    assert backbone.layers["layers.2"] == (8, 8, 8)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(backbone.layer_map(x, "layers.2"), backbone.net.layers[:3](plain(backbone, x)))


def test_layers_behind_the_last_one_are_not_computed():
    backbone = build("resnet18", image_size=32).eval()
    seen = []
    for name, module in backbone.net.named_children():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    backbone.layer_features(torch.rand(1, 3, 32, 32), ["layer2", "layer1"])
    assert seen == ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2"]


def test_a_layer_is_what_it_was_before_the_next_works_in_place():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(self.conv(x).relu_().mean((2, 3))).mul_(0)

    backbone = Backbone(InPlace(), library="x", architecture="x", in_channels=3, image_size=8).eval()
    x = torch.rand(2, 3, 8, 8)
    found = backbone.layer_features(x, ["conv", "linear"])
    conv = backbone.net.conv(plain(backbone, x))
    assert (conv < 0).any()
    assert torch.equal(found["conv"], conv.mean((2, 3)))
    assert torch.equal(found["linear"], backbone.net.linear(conv.relu().mean((2, 3))))


def test_asking_leaves_no_trace():
    backbone = build("convnet", image_size=16, width=4)
    keys = list(backbone.state_dict())
    x = torch.rand(2, 3, 16, 16)
    backbone.layer_features(x, ["layers.2", "layers.5"])
    with pytest.raises(RuntimeError):
        backbone.layer_map(x[:, :2], "layers.2")
    assert not any(m._forward_hooks for m in backbone.modules())
    assert list(backbone.state_dict()) == keys
    assert copy.deepcopy(backbone).layers == backbone.layers


def test_gradients_flow_through_a_layer():
    backbone = build("convnet", image_size=16, width=4)
    backbone.layer_features(torch.rand(2, 3, 16, 16), ["layers.2"])["layers.2"].sum().backward()
    assert {name for name, p in backbone.net.layers.named_parameters() if p.grad is not None} == {
        "0.weight",
        "1.weight",
        "1.bias",
    }


@torch.no_grad()
def test_layers_of_a_compiled_backbone():
    """Compiled code does not run hooks that come after it."""
    backbone = build("convnet", image_size=16, width=4).eval()
    x = torch.rand(2, 3, 16, 16)
    whole, layer = backbone(x), backbone.layer_features(x, ["layers.5"])["layers.5"]
    backbone.compile(backend="eager")
    backbone.net.compile(backend="eager")
    assert torch.equal(backbone(x), whole)
    assert torch.equal(backbone.layer_features(x, ["layers.5"])["layers.5"], layer)
    called = torch.compile(lambda x: 2 * backbone.layer_features(x, ["layers.5"])["layers.5"], backend="eager")
    assert torch.equal(called(x), 2 * layer)


def test_a_name_is_a_layer_and_an_index_a_block():
    backbone = build("resnet18", image_size=32)
    assert [backbone.layer_name(layer) for layer in (0, 1, -1, "layer3.1.conv1")] == [
        "maxpool",
        "layer1",
        "layer4",
        "layer3.1.conv1",
    ]


@pytest.mark.parametrize("layer", [5, -6, "layer5", "layer4.0.relu", "net.layer1", ""])
def test_a_layer_that_does_not_exist_lists_those_that_do(layer):
    """A ReLU that is called twice has no one output."""
    hint = "Did you mean layer4" if layer == "layer5" else ""
    with pytest.raises(ValueError, match=rf"resnet18 has no layer {layer!r}\. {hint}.*0 \(maxpool\), 1 \(layer1\)"):
        build("resnet18", image_size=32).layer_name(layer)


def test_several_layers_in_one_string_are_told_how():
    with pytest.raises(ValueError, match=r"Several layers are a list, \[0,1\]"):
        build("convnet", image_size=16, width=4).layer_name("0,1")


def test_the_network_itself_is_a_layer_without_a_name():
    backbone = build("convnet", image_size=16, width=4).eval()
    x = torch.rand(2, 3, 16, 16)
    found = backbone.layer_features(x, ["", "layers.2"])
    assert torch.equal(found[""], backbone(x))
    assert torch.equal(found["layers.2"], backbone.layer_features(x, ["layers.2"])["layers.2"])


def test_a_vector_is_no_map():
    with pytest.raises(ValueError, match="layer fc of torchvision/resnet18 gives a vector of 512 numbers, not a map"):
        build("resnet18", image_size=32).map_shape("fc")


@pytest.mark.parametrize("name", ["convnet", "resnet18", "timm/resnet18"])
def test_a_network_of_lightness_sees_l_alone(name):
    backbone = build(name, image_size=32, lightness=True).eval()
    x = torch.rand(2, 3, 32, 32)
    l_channel = rgb_to_lab(x)[:, :1] / 100
    torch.testing.assert_close(backbone(x), backbone.net((l_channel - 0.5) / 0.5))
    assert backbone.in_channels == 3
    again = build(**backbone.recipe)
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(again.eval()(x), backbone(x))
    with pytest.raises(ValueError, match="images with 3 channels, not 1"):
        build(name, 1, image_size=32, lightness=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "convnet", "width": 8, "norm": "group"},
        {"name": "resnet18", "small_stem": False, "mean": 0.25, "std": [1, 2, 3]},
    ],
)
def test_the_recipe_builds_it_again(arguments):
    backbone = build(image_size=32, **arguments)
    assert backbone.recipe == {"in_channels": 3, "image_size": 32, **arguments}
    again = build(**backbone.recipe)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in backbone.state_dict().items()}
    assert torch.equal(again.mean, backbone.mean)
    assert torch.equal(again.std, backbone.std)
