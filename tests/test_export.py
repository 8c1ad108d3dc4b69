import json
import stat
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from ssl_lightning.backbones import build
from ssl_lightning.export import export, load_backbone

VIT = {"patch_size": 4, "depth": 2}


def trained(name, **kwargs):
    """A backbone whose every weight and statistic differs from what a fresh one has."""
    backbone = build(name, **kwargs)
    with torch.no_grad():
        for value in backbone.net.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return backbone.eval()


def save(path, backbone, teacher=None):
    """Write what a method's checkpoint holds."""
    heads = {
        "head.0.weight": torch.rand(2, 2),
        "backbones.0.weight": torch.rand(2),
    }  # neither is the backbone's
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    if teacher is not None:
        state |= {f"teacher_backbone.{key}": value for key, value in teacher.state_dict().items()}
    ours = {"class_path": "ssl_lightning.methods.x.X", "init_args": {"lr": 0.1}, "version": "0.1.0"}
    torch.save({"state_dict": heads | state, "ssl_lightning": ours | {"backbone": backbone.recipe}, "epoch": 3}, path)
    return path


def read(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return load_file(path), metadata


def normalised(x, metadata):
    mean, std = (torch.tensor(json.loads(metadata[key])).view(-1, 1, 1) for key in ("mean", "std"))
    return (x - mean) / std


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (64, 1), (65, 3)])
def test_a_plain_torchvision_resnet_gives_the_same_features(tmp_path, size, channels):
    backbone = trained("resnet18", image_size=size, in_channels=channels)
    export(save(tmp_path / "last.ckpt", backbone), tmp_path / "net.safetensors")
    weights, metadata = read(tmp_path / "net.safetensors")
    plain = models.resnet18()
    if json.loads(metadata["small_stem"]):
        plain.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        plain.maxpool = nn.Identity()
    assert (metadata["small_stem"] == "true") == (size <= 64)
    plain.fc = nn.Identity()
    plain.load_state_dict(weights)
    x = torch.rand(2, channels, size, size)
    torch.testing.assert_close(plain.eval()(normalised(x, metadata)), backbone(x))


@pytest.mark.parametrize(
    ("name", "size", "args"),
    [("vit_tiny_patch16_224", 32, VIT), ("resnet10t", 96, {})],
)
def test_a_plain_timm_model_gives_the_same_features(tmp_path, name, size, args):
    backbone = trained(name, image_size=size, **args)
    export(save(tmp_path / "last.ckpt", backbone), tmp_path / "net.safetensors")
    weights, metadata = read(tmp_path / "net.safetensors")
    assert metadata["library"] == "timm"
    given = json.loads(metadata["backbone_args"]) | ({"img_size": size} if args else {})
    plain = timm.create_model(metadata["architecture"], num_classes=0, **given)
    plain.load_state_dict(weights)
    x = torch.rand(2, 3, size, size)
    torch.testing.assert_close(plain.eval()(normalised(x, metadata)), backbone(x), rtol=1e-4, atol=1e-4)


def test_the_file_loads_into_a_whole_model_but_for_its_classifier(tmp_path):
    export(save(tmp_path / "last.ckpt", trained("mobilenet_v2")), tmp_path / "net.safetensors")
    result = models.mobilenet_v2().load_state_dict(load_file(tmp_path / "net.safetensors"), strict=False)
    assert result.missing_keys == ["classifier.1.weight", "classifier.1.bias"]
    assert result.unexpected_keys == []


def test_our_own_networks_are_exported_under_their_own_names(tmp_path):
    backbone = trained("convnet", in_channels=2, image_size=32, width=8)
    path = save(tmp_path / "last.ckpt", backbone)
    metadata = export(path, tmp_path / "deep" / "net.safetensors")
    weights, stored = read(tmp_path / "deep" / "net.safetensors")
    assert stored == metadata
    assert weights.keys() == backbone.net.state_dict().keys()
    assert stored == {
        "format": "pt",
        "library": "ssl_lightning",
        "architecture": "convnet",
        "in_channels": "2",
        "image_size": "32",
        "small_stem": "false",
        "lightness": "false",
        "backbone_args": '{"width": 8}',
        "dim": "64",
        "mean": "[0.5, 0.5]",
        "std": "[0.5, 0.5]",
        "method": "ssl_lightning.methods.x.X",
        "which": "student",
        "version": "0.1.0",
    }


def test_a_resnet_can_be_written_for_the_other_library(tmp_path):
    backbone = trained("resnet18", image_size=32)
    metadata = export(save(tmp_path / "last.ckpt", backbone), tmp_path / "net.safetensors", layout="timm")
    assert (metadata["library"], metadata["architecture"]) == ("timm", "resnet18")
    plain = timm.create_model("resnet18", num_classes=0)
    plain.conv1, plain.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    plain.load_state_dict(load_file(tmp_path / "net.safetensors"))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(plain.eval()(normalised(x, metadata)), backbone(x))


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnet"])
def test_a_layout_that_is_another_network_is_refused(tmp_path, name):
    path = save(tmp_path / "last.ckpt", build(name, image_size=64))
    with pytest.raises(ValueError, match=f"timm has no network with the weights of .*{name}"):
        export(path, tmp_path / "net.safetensors", layout="timm")
    with pytest.raises(ValueError, match='layout must be "native", "torchvision" or "timm", got \'hf\''):
        export(path, tmp_path / "net.safetensors", layout="hf")
    assert not (tmp_path / "net.safetensors").exists()


def test_weights_in_channels_last_are_exported(tmp_path):
    backbone = trained("resnet18", image_size=32).to(memory_format=torch.channels_last)
    assert not backbone.net.layer1[0].conv1.weight.is_contiguous()
    export(save(tmp_path / "last.ckpt", backbone), tmp_path / "net.safetensors")
    weights = load_file(tmp_path / "net.safetensors")
    assert torch.equal(weights["layer1.0.conv1.weight"], backbone.net.layer1[0].conv1.weight)


def test_student_and_teacher_are_told_apart(tmp_path):
    args = {"image_size": 32, "width": 8}
    student, teacher = trained("convnet", **args), trained("convnet", **args, mean=0.25)
    path = save(tmp_path / "last.ckpt", student, teacher)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(load_backbone(path)(x), student(x))
    assert torch.equal(load_backbone(str(path), "teacher")(x), teacher(x))
    assert not torch.equal(student(x), teacher(x))
    metadata = export(path, tmp_path / "net.safetensors", which="teacher")
    assert metadata["which"] == "teacher"
    assert metadata["mean"] == "[0.25, 0.25, 0.25]"
    plain = build("convnet", **args).net.eval()
    plain.load_state_dict(load_file(tmp_path / "net.safetensors"))
    torch.testing.assert_close(plain(normalised(x, metadata)), teacher(x))


def test_a_loaded_backbone_is_ready_for_evaluation(tmp_path):
    backbone = load_backbone(save(tmp_path / "last.ckpt", trained("resnet20", image_size=32)))
    assert not any(module.training for module in backbone.modules())
    assert backbone.dim == 64


def test_a_checkpoint_without_teacher_says_so(tmp_path):
    path = save(tmp_path / "last.ckpt", build("convnet", image_size=32))
    with pytest.raises(ValueError, match=r"holds no teacher: ssl_lightning.methods.x.X has none"):
        load_backbone(path, "teacher")
    with pytest.raises(ValueError, match='which must be "student" or "teacher", got \'ema\''):
        load_backbone(path, "ema")


def test_a_weight_that_is_missing_or_too_much_is_an_error(tmp_path):
    path = save(tmp_path / "last.ckpt", build("convnet", image_size=32))
    content = torch.load(path)
    content["state_dict"]["backbone.net.more"] = torch.rand(1)
    del content["state_dict"]["backbone.mean"]
    torch.save(content, path)
    with pytest.raises(RuntimeError, match=r'(?s)Missing.*"mean".*Unexpected.*"net.more"'):
        load_backbone(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"there is no checkpoint {path}"):
            load_backbone(path)


def test_another_file_is_not_taken_for_a_checkpoint(tmp_path):
    path = tmp_path / "other.ckpt"
    whole = save(tmp_path / "whole.ckpt", build("convnet", image_size=32)).read_bytes()
    for content in (b"", b"no checkpoint at all", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"other.ckpt (is not a whole checkpoint|does not load safely)"):
            load_backbone(path)
    for value in ({"state_dict": {}}, torch.rand(2)):
        torch.save(value, path)
        with pytest.raises(ValueError, match="was not written by ssl-lightning"):
            load_backbone(path)
    ours = {"class_path": "ssl_lightning.methods.masked.bert.BERT", "init_args": {}, "version": "0.1.0"}
    torch.save({"state_dict": {}, "ssl_lightning": ours}, path)
    with pytest.raises(ValueError, match=r"holds no image backbone: it is of ssl_lightning.methods.masked.bert.BERT"):
        load_backbone(path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"ssl_lightning": {}, "model": nn.Linear(1, 1)}, tmp_path / "unsafe.ckpt")
    with pytest.raises(ValueError, match="does not load safely"):
        load_backbone(tmp_path / "unsafe.ckpt")


def test_the_file_is_readable_by_whom_the_user_s_files_are(tmp_path):
    path = save(tmp_path / "last.ckpt", build("convnet", image_size=32))
    export(path, tmp_path / "net.safetensors")
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (path, tmp_path / "net.safetensors")]
    assert modes[0] == modes[1]


def test_the_output_must_be_named_as_what_it_is(tmp_path):
    path = save(tmp_path / "last.ckpt", build("convnet", image_size=32))
    with pytest.raises(ValueError, match=r"output must end in .safetensors, got .*last.ckpt"):
        export(path, path)


@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_earlier_file_whole(tmp_path, monkeypatch, failure):
    path = save(tmp_path / "last.ckpt", trained("convnet", image_size=32))
    export(path, tmp_path / "net.safetensors")
    before = (tmp_path / "net.safetensors").read_bytes()

    def half(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise failure

    monkeypatch.setattr(Path, "write_bytes", half)
    save(path, trained("convnet", image_size=32))
    with pytest.raises(type(failure)):
        export(path, tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "net.safetensors"]
