"""FineTune: what it loads, its rates, its loss."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torchvision.models import VisionTransformer

from datamodules.batch import ImageBatch
from ssl_lightning.backbones import Backbone
from ssl_lightning.backbones.surgery import remove_classifier
from ssl_lightning.export import load_backbone
from ssl_lightning.methods import MAE, Classifier, FineTune, LinearProbe
from ssl_lightning.mixing import own_shares
from tests.methods.tiny import VIT, data, make, trainer

MEAN = {"global_pool": "avg", "drop_path_rate": 0.1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mae")
    trainer(folder, max_steps=2).fit(make(MAE, backbone_args={**VIT, "depth": 3}), data())
    return str(folder / "checkpoints" / "last.ckpt")


@torch.no_grad()
def test_it_begins_with_the_weights_and_the_mean_of_the_patches_in_a_new_norm(checkpoint):
    model, old = FineTune(num_classes=2, checkpoint=checkpoint, backbone_args=MEAN).eval(), load_backbone(checkpoint)
    x = torch.rand(2, 3, 16, 16)
    tokens = old.net.blocks(torch.cat([old.net.cls_token.expand(2, -1, -1), patches(old, x)], 1) + old.net.pos_embed)
    expected = nn.functional.layer_norm(tokens[:, 1:].mean(1), (16,), eps=1e-6)
    torch.testing.assert_close(model(x), expected)
    assert model.backbone.net.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    assert all(p.requires_grad for p in model.parameters())


def patches(backbone, x):
    return backbone.net.patch_embed(backbone.normalise(x))


def test_its_own_checkpoint_needs_no_other(checkpoint, tmp_path):
    model = FineTune(num_classes=2, checkpoint=checkpoint, backbone_args=MEAN, lr=0.1, warmup_epochs=0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer(tmp_path, max_steps=2).fit(model, data())
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    again = FineTune.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True).eval()
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(x), model.eval()(x))
    assert torch.equal(load_backbone(tmp_path / "checkpoints" / "last.ckpt")(x), model(x))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"depth": 4}, "missing: blocks.3.norm1.weight"),
        ({"embed_dim": 32}, r"of another shape: cls_token \(1, 1, 16\), here \(1, 1, 32\)"),
    ],
)
def test_arguments_that_the_weights_do_not_fit_are_refused(args, words, checkpoint):
    with pytest.raises(ValueError, match=rf"do not fit timm/vit_tiny_patch16_224 with backbone_args .*{words}"):
        FineTune(num_classes=2, checkpoint=checkpoint, backbone_args=args)


def test_a_probe_takes_such_arguments_too(checkpoint):
    probe = LinearProbe(num_classes=2, checkpoint=checkpoint, backbone_args={"global_pool": "avg", "fc_norm": False})
    old, x = load_backbone(checkpoint), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(probe.eval()(x), old.net.forward_features(old.normalise(x))[:, 1:].mean(1))


# ---- rates


def test_the_rates_of_a_vision_transformer_are_those_of_timm():
    args = {**VIT, "depth": 4, "global_pool": "avg"}
    model = FineTune(num_classes=3, backbone="vit_tiny_patch16_224", backbone_args=args, image_size=16, layer_decay=0.6)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=3, **args)
    names = {id(p): name for name, p in theirs.named_parameters()}
    expected = {}
    for group in param_groups_layer_decay(theirs, layer_decay=0.6):
        for p in group["params"]:
            name = names[id(p)]
            ours = f"backbone.net.{name}" if not name.startswith("head.") else name.replace("head.", "classifier.")
            expected[ours] = group["lr_scale"]
    found = {name: model.lr_scale(name) for name, p in model.named_parameters()}
    assert found == pytest.approx(expected)
    assert len(set(found.values())) == 6


@pytest.mark.parametrize(
    ("backbone", "args", "powers"),
    [
        (
            "convnet",
            {"width": 4},
            {"layers.0.weight": 4, "layers.1.bias": 4, "layers.3.weight": 3, "layers.10.bias": 1},
        ),
        ("resnet18", {}, {"conv1.weight": 5, "bn1.weight": 5, "layer1.0.conv1.weight": 4, "layer4.1.bn2.bias": 1}),
        (
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 4},
            {
                "patch_embed.proj.weight": 5,
                "layers.0.blocks.0.attn.relative_position_bias_table": 4,
                "layers.3.blocks.0.mlp.fc2.bias": 1,
                "norm.weight": 0,
            },
        ),
    ],
)
def test_the_rates_of_other_networks_fall_block_by_block(backbone, args, powers):
    model = FineTune(num_classes=3, backbone=backbone, backbone_args=args, image_size=64, layer_decay=0.5)
    assert model.lr_scale("classifier.weight") == 1
    assert {name: model.lr_scale(f"backbone.net.{name}") for name in powers} == {n: 0.5**k for n, k in powers.items()}


def test_tokens_and_positions_belong_to_the_first_block():
    """Of torchvision's transformer they are parameters of what the blocks lie in."""
    net = VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=24)
    remove_classifier(net)
    backbone = Backbone(net, library="torchvision", architecture="vit", in_channels=3, image_size=32)
    expected = {
        "class_token": 0,
        "conv_proj.weight": 0,
        "encoder.pos_embedding": 0,
        "encoder.layers.encoder_layer_0.self_attention.in_proj_weight": 1,
        "encoder.layers.encoder_layer_0.self_attention.out_proj.weight": 1,
        "encoder.layers.encoder_layer_1.mlp.0.weight": 2,
        "encoder.ln.weight": 3,
    }
    assert {name: backbone.block_of(name) for name in expected} == expected


def test_the_optimizer_has_the_rates_and_all_follow_the_schedule(tmp_path):
    args = {"num_classes": 3, "backbone": "convnet", "backbone_args": {"width": 4}, "image_size": 16}
    model = FineTune(**args, layer_decay=0.5, lr=1.0, warmup_epochs=0)
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=4)
    run.fit(model, data())
    groups = run.optimizers[0].param_groups
    assert [g["initial_lr"] for g in groups] == [16 / 256 * 0.5 ** (i // 2) for i in range(10)]  # weights, vectors
    assert [g["weight_decay"] for g in groups] == [0.05, 0] * 5
    assert groups[0]["params"][0] is model.classifier.weight
    factor = [g["lr"] / g["initial_lr"] for g in groups]
    assert factor == pytest.approx([factor[0]] * 10, abs=1e-12)


# ---- the loss


@pytest.mark.parametrize("cls", [FineTune, Classifier])
def test_the_loss_of_mixed_images_equals_a_loop(cls):
    model = make(cls, mixup=0.8, cutmix=1.0, label_smoothing=0.1).eval()
    nn.init.normal_(model.classifier.weight)
    x = torch.rand(5, 3, 16, 16)
    batch = ImageBatch(torch.zeros(5, 3, 16, 16).byte(), torch.tensor([1, 4, 4, 0, 9]), torch.arange(5) + 3, (x,))
    found = model.training_step(batch, 0).item()
    shares = own_shares(model.uniform(batch.index, 4), 16, 0.8, 1.0, x.device).double()
    total = 0.0
    for i, j in enumerate([1, 0, 3, 2, 4]):
        mixed = shares[i] * x[i] + (1 - shares[i]) * x[j]
        own = shares[i].mean()
        target = torch.full((10,), 0.1 / 10, dtype=torch.float64)
        target[batch.label[i]] += 0.9 * own
        target[batch.label[j]] += 0.9 * (1 - own)
        logits = model.classifier(model.backbone(mixed[None].float()))[0].double()
        total -= (target * logits.log_softmax(0)).sum().item()
    assert found == pytest.approx(total / 5, rel=1e-4)
    plain = make(cls, mixup=0.0, cutmix=0.0, label_smoothing=0.1).eval()
    plain.load_state_dict(model.state_dict())
    expected = nn.functional.cross_entropy(model.classifier(model(x)), batch.label, label_smoothing=0.1)
    assert plain.training_step(batch, 0).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"layer_decay": 0.0}, r"layer_decay must lie in \(0, 1\], got 0"),
        ({"layer_decay": 1.1}, "layer_decay"),
        ({"mixup": -1.0}, "mixup and cutmix must be at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_numbers_out_of_range_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        make(FineTune, **args)
