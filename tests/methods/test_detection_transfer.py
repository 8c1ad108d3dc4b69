"""DetectionTransfer: what torchvision's Faster R-CNN gives, what is loaded, what is drawn and learned."""

import warnings

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from datamodules import DetectionDigits
from ssl_lightning.backbones import build
from ssl_lightning.export import load_backbone
from ssl_lightning.faster_rcnn import BoxSampler
from ssl_lightning.methods import MAE, DetectionTransfer, SimCLR
from ssl_lightning.pyramid import FPN, SimplePyramid, stages
from tests.methods.tiny import VIT, data, make, trainer

ALL = {"rpn_batch_size_per_image": 10**6, "box_batch_size_per_image": 10**6}  # all boxes are taken
SMALL = {"num_classes": 10, "channels": 8, "head_dim": 16, "warmup_steps": 0}


def batch(n=3, size=16, **changes):
    images = DetectionDigits(n, 0, 0, image_size=size).parts().train[list(range(n))]
    return images._replace(image=images.image.float() / 255, **changes)


def step(model, of):
    """A training step outside of a trainer."""
    type(model).current_epoch, kept = 0, DetectionTransfer.current_epoch
    try:
        return model.training_step(of, 0)
    finally:
        type(model).current_epoch = kept


# ---- Faster R-CNN


class Maps(nn.Module):
    """The pyramid of a method as torchvision has it."""

    def __init__(self, model):
        super().__init__()
        self.model, self.out_channels = model, model.pyramid.channels

    def forward(self, x):
        return self.model.pyramid(self.model.backbone.layer_maps(x, self.model.maps))


def theirs(model, size):
    """torchvision's whole model around the parts of a method, with its own samplers."""
    kept = model.rpn, model.roi_heads
    whole = FasterRCNN(Maps(model), 11, min_size=size, max_size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    for part, ours in (("rpn", kept[0]), ("roi_heads", kept[1])):
        setattr(whole, part, ours)
        old = ours.fg_bg_sampler
        ours.fg_bg_sampler = BalancedPositiveNegativeSampler(old.size, old.positive)
    return whole


@pytest.mark.parametrize("backbone", ["convnet", "vit"])
def test_losses_and_boxes_are_those_of_torchvision(backbone):
    chosen = {"backbone": "vit_tiny_patch16_224", "backbone_args": VIT} if backbone == "vit" else {}
    model = make(DetectionTransfer, image_size=32, detector_args={**ALL, "box_score_thresh": 0.0}, **chosen)
    of = batch(size=32)
    found = model.eval().detect(of.image)
    losses = step(model.train(), of)
    targets = []
    for box, label in zip(of.box, of.label, strict=True):
        targets.append({"boxes": box[label >= 0], "labels": label[label >= 0] + 1})
    again = make(DetectionTransfer, image_size=32, detector_args={**ALL, "box_score_thresh": 0.0}, **chosen)
    whole = theirs(again, 32)
    for ours, other in zip(found, whole.eval()(list(of.image)), strict=True):
        torch.testing.assert_close(ours["boxes"], other["boxes"])
        torch.testing.assert_close(ours["scores"], other["scores"])
        assert torch.equal(ours["labels"], other["labels"] - 1)
        assert ((ours["labels"] >= 0) & (ours["labels"] < 10)).all()
        assert len(ours["scores"]) > 10
    expected = whole.train()(list(of.image), targets)
    assert set(losses) - {"loss"} == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses["loss"], sum(expected.values()))


def test_ignored_objects_and_padding_are_not_learned():
    torch.manual_seed(0)
    model = make(DetectionTransfer)
    of = batch()
    alone = of._replace(box=of.box[:, :1], label=of.label[:, :1], ignored=of.ignored[:, :1])
    ignored = torch.ones_like(of.ignored)
    ignored[:, 0] = False
    assert of.label.shape[1] > 1
    assert step(model, of._replace(ignored=ignored))["loss"] == step(model, alone)["loss"]
    assert step(model, of)["loss"] != step(model, alone)["loss"]


def test_images_without_objects_can_be_learned_from():
    of = batch()
    losses = step(make(DetectionTransfer), of._replace(label=torch.full_like(of.label, -1)))
    assert torch.isfinite(losses["loss"])
    assert losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0


# ---- which boxes are learned from


def drawn(sampler, labels, index, epoch=0):
    sampler.index, sampler.epoch = torch.tensor(index), epoch
    return sampler(labels)


def test_so_many_boxes_are_taken_and_no_others():
    label = torch.tensor([1.0] * 30 + [0.0] * 50 + [-1.0] * 20)
    sampler = BoxSampler("a", 40, 0.5)
    positive, negative = (taken[0] for taken in drawn(sampler, [label], [3]))
    assert (positive.sum(), negative.sum(), sampler.taken) == (20, 20, 40)
    assert not (positive & (label != 1)).any()
    assert not (negative & (label != 0)).any()
    few = torch.tensor([1.0] * 5 + [0.0] * 9)
    positive, negative = (taken[0] for taken in drawn(sampler, [few], [3]))
    assert (positive.sum(), negative.sum(), sampler.taken) == (5, 9, 14)


def test_what_is_taken_depends_on_the_image_and_the_epoch_alone():
    label = torch.tensor([1.0] * 100 + [0.0] * 300)
    sampler = BoxSampler("a", 40, 0.25)
    one = [taken for part in drawn(sampler, [label, label], [5, 9]) for taken in part]
    other = [taken for part in drawn(sampler, [label, label[:350], label], [9, 2, 5]) for taken in part]
    for i, j in ((0, 2), (1, 0), (2, 5), (3, 3)):
        assert torch.equal(one[i], other[j])
    assert not torch.equal(one[0], one[1])
    for changed in (drawn(sampler, [label], [5], epoch=1), drawn(BoxSampler("b", 40, 0.25), [label], [5])):
        assert not torch.equal(one[0], changed[0][0])


def test_every_box_is_as_likely():
    label = torch.tensor([1.0] * 20 + [0.0] * 20)
    sampler = BoxSampler("a", 10, 0.5)
    positive, negative = (torch.stack(part).float().mean(0) for part in drawn(sampler, [label] * 2000, range(2000)))
    torch.testing.assert_close(positive[:20], torch.full((20,), 0.25), atol=0.05, rtol=0)
    torch.testing.assert_close(negative[20:], torch.full((20,), 0.25), atol=0.05, rtol=0)


# ---- pyramids


def test_the_pyramid_of_a_resnet_is_that_of_torchvision():
    ours = build("torchvision/resnet18", image_size=128, mean=0.0, std=1.0)
    pyramid = FPN(ours, stages(ours), 16, norm=True).eval()
    assert pyramid.strides == [4, 8, 16, 32]
    net = resnet18()
    net.load_state_dict(ours.net.state_dict(), strict=False)
    layers = {f"layer{i}": str(i) for i in range(1, 5)}
    whole = BackboneWithFPN(net, layers, [64, 128, 256, 512], 16, LastLevelMaxPool(), nn.BatchNorm2d).eval()
    whole.fpn.load_state_dict(pyramid.fpn.state_dict())
    x = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        found, expected = pyramid(ours.eval().layer_maps(x, stages(ours))), whole(x)
    for a, b in zip(found.values(), list(expected.values())[:4], strict=True):
        torch.testing.assert_close(a, b)


def test_a_large_image_gets_a_further_level_for_large_objects():
    backbone = build("convnet", image_size=256, width=8)
    pyramid = FPN(backbone, stages(backbone)[:2], 8, norm=False)
    assert pyramid.strides == [2, 4, 8]
    assert pyramid.names == stages(backbone)[:2]
    maps = pyramid(backbone.layer_maps(torch.rand(1, 3, 256, 256), stages(backbone)[:2]))
    assert [m.shape[2] for m in maps.values()] == [128, 64, 32]


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [
        ("resnet18", 64, ["layer1", "layer2", "layer3", "layer4"]),
        ("resnet20", 32, ["layer1", "layer2", "layer3"]),
        ("convnet", 32, ["layers.2", "layers.5", "layers.8", "layers.11"]),
        ("vgg11", 64, ["features.2", "features.7", "features.12", "features.20"]),
        ("shufflenet_v2_x0_5", 128, ["stage2", "stage3", "conv5"]),  # between conv1 and stage2 the stride is 4
        ("swin_tiny_patch4_window7_224", 224, ["layers.0", "layers.1", "layers.2", "layers.3"]),
        ("vit_tiny_patch16_224", 64, ["blocks.11"]),
        ("vit_b_32", 64, ["encoder.layers.encoder_layer_11"]),
    ],
)
def test_the_last_block_of_each_size_is_taken(name, size, layers):
    backbone = build(name, image_size=size)
    assert stages(backbone) == layers
    sides = [backbone.map_shape(layer)[1] for layer in layers]
    assert sides == [sides[-1] * 2**i for i in reversed(range(len(sides)))]


def test_a_stride_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match=r"convnet makes a map of 2 x 2 of images of 20 px.*a multiple of 32"):
        stages(build("convnet", image_size=20))
    with pytest.raises(ValueError, match="needs a stride that is a power of two"):
        stages(build("vit_small_patch14_dinov2", image_size=28))


@pytest.mark.parametrize(
    ("patch", "size", "strides"),
    [(16, 64, [4, 8, 16, 32]), (4, 16, [1, 2, 4, 8]), (2, 8, [1, 2, 4]), (16, 16, [4, 8, 16])],
)
def test_the_pyramid_of_a_vision_transformer(patch, size, strides):
    backbone = build("vit_tiny_patch16_224", image_size=size, **{**VIT, "patch_size": patch, "depth": 2})
    pyramid = SimplePyramid(backbone, stages(backbone)[0], 8)
    assert pyramid.strides == strides
    maps = pyramid(backbone.layer_maps(torch.rand(2, 3, size, size), stages(backbone)))
    assert [tuple(m.shape) for m in maps.values()] == [(2, 8, size // s, size // s) for s in strides]


# ---- checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of a convolutional network with the stem of small images and of a transformer, trained on 16 px."""
    found = {}
    for name, cls, args in (
        ("resnet", SimCLR, {"backbone": "resnet18", "backbone_args": {}, "image_size": 64}),
        ("vit", MAE, {"backbone_args": {**VIT, "depth": 2}}),
    ):
        folder = tmp_path_factory.mktemp(name)
        model = make(cls, **args)
        run = trainer(folder, max_steps=1)
        run.fit(model, data(batch_size=2, image_size=args.get("image_size", 16)))
        found[name] = str(folder / "checkpoints" / "last.ckpt")
    return found


def test_a_convolutional_network_keeps_weights_and_stem_at_another_size(checkpoints):
    model = DetectionTransfer(**SMALL, checkpoint=checkpoints["resnet"], image_size=96)
    old = load_backbone(checkpoints["resnet"])
    assert model.backbone.image_size == model.image_size == 96
    assert model.backbone.small_stem
    assert model.pyramid.strides == [1, 2, 4, 8]
    for name, tensor in old.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor), name


def test_the_positions_of_a_transformer_are_interpolated(checkpoints):
    model = DetectionTransfer(**SMALL, checkpoint=checkpoints["vit"], image_size=32).eval()
    old = load_backbone(checkpoints["vit"])
    args = {**VIT, "depth": 2, "num_classes": 0}
    other = timm.create_model("vit_tiny_patch16_224", img_size=16, dynamic_img_size=True, **args).eval()
    other.load_state_dict(old.net.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), other(old.normalise(x)))


def test_a_swin_keeps_its_windows_at_another_size(tmp_path):
    args = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}
    model = make(SimCLR, backbone="swin_tiny_patch4_window7_224", backbone_args=args, image_size=64)
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, data(batch_size=2, image_size=64))
    checkpoint = str(tmp_path / "checkpoints" / "last.ckpt")
    model = DetectionTransfer(**SMALL, checkpoint=checkpoint, image_size=128)
    old = load_backbone(checkpoint).state_dict()
    for name, tensor in model.backbone.state_dict().items():
        assert name not in old or tensor.shape != old[name].shape or torch.equal(tensor, old[name]), name


def test_its_own_checkpoint_needs_no_other_and_detects_the_same(checkpoints, tmp_path):
    model = DetectionTransfer(**SMALL, checkpoint=checkpoints["vit"], image_size=32, lr=0.01)
    trainer(tmp_path, max_steps=2).fit(model, data(DetectionTransfer, image_size=32, batch_size=2))
    again = DetectionTransfer.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for a, b in zip(model.eval().detect(x), again.detect(x), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)
    moved = load_backbone(tmp_path / "checkpoints" / "last.ckpt").state_dict()
    assert not torch.equal(
        moved["net.blocks.0.attn.qkv.weight"], load_backbone(checkpoints["vit"]).net.blocks[0].attn.qkv.weight
    )


def test_other_channels_are_refused(checkpoints):
    with pytest.raises(ValueError, match=r"was trained with in_channels 3, but the data have 1"):
        DetectionTransfer(**SMALL, checkpoint=checkpoints["vit"], in_channels=1)


# ---- batch norm


@pytest.mark.parametrize("synchronized", [False, True])
def test_frozen_batch_norm_does_not_move_and_the_pyramid_has_none(synchronized, tmp_path):
    model = make(DetectionTransfer, freeze_norm=True)
    if synchronized:  # as --trainer.sync_batchnorm does, which takes the place of every norm
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        trainer(tmp_path, max_steps=2).fit(model, data(DetectionTransfer))
    after = model.state_dict()
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    assert norms
    assert all(name.startswith("backbone.") for name in norms)
    for name, tensor in before.items():
        of_norm = name.rpartition(".")[0] in norms
        assert torch.equal(tensor, after[name]) == (of_norm or name in ("backbone.mean", "backbone.std")), name


def test_otherwise_it_is_tuned(tmp_path):
    model = make(DetectionTransfer)
    norm = model.backbone.net.layers[1]
    mean, scale = norm.running_mean.clone(), norm.weight.clone()
    trainer(tmp_path, max_steps=2).fit(model, data(DetectionTransfer))
    assert not torch.equal(norm.running_mean, mean)
    assert not torch.equal(norm.weight, scale)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.pyramid.modules())


# ---- wrong input


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"detector_args": {"box_nms_tresh": 0.3}}, r"unknown 'box_nms_tresh'\. Did you mean box_nms_thresh\?"),
        ({"detector_args": {"rpn_head": 1}}, "unknown 'rpn_head'"),
        ({"backbone": None, "checkpoint": None}, "DetectionTransfer needs a checkpoint, or a backbone"),
    ],
)
def test_wrong_arguments_are_named(args, words):
    with pytest.raises(ValueError, match=words):
        make(DetectionTransfer, **args)


def test_data_without_boxes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="DetectionTransfer learns from images with boxes, and Photos has none"):
        trainer(tmp_path, max_steps=1).fit(make(DetectionTransfer), data())
    with pytest.raises(ValueError, match="DetectionDigits has images with boxes, which SimCLR does not learn from"):
        trainer(tmp_path, max_steps=1).fit(make(SimCLR), data(DetectionTransfer))


def test_a_precision_that_boxes_do_not_bear_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"precision is bf16-true: take --trainer.precision bf16-mixed"):
        trainer(tmp_path, max_steps=1, precision="bf16-true").fit(make(DetectionTransfer), data(DetectionTransfer))
    model, learned = make(DetectionTransfer), []
    model.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, given: learned.extend(given[1]))
    trainer(tmp_path, max_steps=1, precision="bf16-mixed").fit(model, data(DetectionTransfer))
    assert {box.dtype for box in learned} == {torch.float32}
    assert all(len(torch.unique(box.bfloat16().float() - box)) > 1 for box in learned)  # none was rounded on the way
