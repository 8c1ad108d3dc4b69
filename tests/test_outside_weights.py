"""Weights from elsewhere: where they are found in a file, that the right ones are loaded, what is refused."""

import argparse
import json
import logging
import re

import pytest
import timm
import torch
from lightly.models import ResNetGenerator
from lightly.models.modules import SimCLRProjectionHead
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from callbacks.results import ResultsFile
from ssl_lightning.backbones import build
from ssl_lightning.export import export, load_backbone
from ssl_lightning.methods import FineTune, LinearProbe, MoCo
from ssl_lightning.outside_weights import load_outside
from tests.methods.tiny import VIT, data, make, trainer
from tests.test_export import save, trained

MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def moved(net):
    """Every weight and statistic is another than that of a fresh network, and of the next call."""
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01 * torch.randn_like(value) if value.ndim > 1 else 0.1 * torch.rand_like(value))
    return net.eval()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    return moved(models.resnet18())


@pytest.fixture(scope="module")
def slow_copy():
    torch.manual_seed(2)
    return moved(models.resnet18())


def resnet18():
    return build("resnet18", image_size=32, small_stem=False)


@torch.no_grad()
def features(net, x):
    """Of torchvision's own network, behind ImageNet's normalisation."""
    x = (x - MEAN) / STD
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        x = getattr(net, name)(x)
    return x.mean((2, 3))


def check(backbone, net):
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(x), features(net, x))


def under(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def trunk(net):
    return {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("fc.")}


# ---- where they are


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("classifier", [True, False])
def test_a_plain_state_dict_gives_the_library_s_features(suffix, classifier, resnet, tmp_path, caplog):
    path, state = tmp_path / f"resnet18{suffix}", resnet.state_dict() if classifier else trunk(resnet)
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    backbone = resnet18()
    with caplog.at_level(logging.INFO):
        load_outside(backbone, str(path))
    check(backbone, resnet)
    names = ["fc.weight", "fc.bias"] if suffix == ".pth" else ["fc.bias", "fc.weight"]
    left_out = f"; left out: {', '.join(names)}" * classifier
    assert caplog.messages == [f"120 tensors * of {path} for torchvision/resnet18{left_out}"]


def lightly(net, momentum):
    """As in lightly's examples: a Sequential of the children without the last."""
    method = nn.Module()
    method.backbone = nn.Sequential(*list(net.children())[:-1])
    method.projection_head = SimCLRProjectionHead(512, 16, 8)
    method.backbone_momentum = nn.Sequential(*list(momentum.children())[:-1])
    return {"epoch": 3, "state_dict": method.state_dict(), "hyper_parameters": {"lr": 0.1}}


def solo_learn(net, momentum):
    heads = {"projector.0.weight": torch.rand(4, 4), "classifier.weight": torch.rand(10, 512)}
    state = under("momentum_backbone.", trunk(momentum)) | under("backbone.", trunk(net)) | heads
    return {"state_dict": state, "optimizer_states": [{"state": {0: {"exp_avg": torch.rand(3)}}}]}


def moco(net, momentum):
    state = under("module.encoder_q.", trunk(net) | {"fc.0.weight": torch.rand(4, 4), "fc.2.bias": torch.rand(4)})
    state |= under("module.encoder_k.", trunk(momentum) | {"fc.0.weight": torch.rand(4, 4)})
    return {"arch": "resnet18", "state_dict": state | {"module.queue": torch.rand(4, 4)}, "optimizer": {"state": {}}}


def moco_v3(net, momentum):
    state = under("module.momentum_encoder.", momentum.state_dict()) | under("module.base_encoder.", net.state_dict())
    return {"state_dict": state | {"module.predictor.0.weight": torch.rand(4, 4)}}


def dino(net, momentum):
    return {"student": under("module.backbone.", trunk(net)), "teacher": under("backbone.", trunk(momentum))}


def swav(net, momentum):
    heads = {"module.projection_head.0.weight": torch.rand(4, 4), "module.prototypes.weight": torch.rand(4, 4)}
    return under("module.", trunk(net)) | heads


def timm_ema(net, momentum):
    return {"state_dict": net.state_dict(), "state_dict_ema": momentum.state_dict(), "epoch": 4}


def encoder(net, momentum):
    return {"state_dict": under("encoder.", net.state_dict())}


def model(net, momentum):
    return {"model": net.state_dict()}


def inner_net(net, momentum):
    return {"state_dict": under("net.", net.state_dict())}


LAYOUTS = {
    lightly: ("state_dict.backbone.", "state_dict.backbone_momentum.", 120),
    solo_learn: ("state_dict.backbone.", "state_dict.momentum_backbone.", 120),
    moco: ("state_dict.module.encoder_q.", "state_dict.module.encoder_k.", 120),
    moco_v3: ("state_dict.module.base_encoder.", "state_dict.module.momentum_encoder.", 120),
    dino: ("student.module.backbone.", "teacher.backbone.", 120),
    timm_ema: ("state_dict.", "state_dict_ema.", 120),
    swav: ("module.", None, 120),
    encoder: ("state_dict.encoder.", None, 120),
    model: ("model.", None, 120),
    inner_net: ("state_dict.net.", None, 120),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_the_network_is_found_under_its_prefix(layout, resnet, slow_copy, tmp_path, caplog):
    path = tmp_path / "last.ckpt"
    torch.save(layout(resnet, slow_copy), path)
    student, teacher, tensors = LAYOUTS[layout]
    backbone = resnet18()
    with caplog.at_level(logging.INFO):
        load_outside(backbone, str(path))
    check(backbone, resnet)
    assert caplog.messages[0].startswith(f"{tensors} tensors {student}* of {path} for torchvision/resnet18")
    if teacher is None:
        with pytest.raises(ValueError, match="holds no teacher with the names of torchvision/resnet18"):
            load_outside(resnet18(), str(path), "teacher")
    else:
        load_outside(backbone, str(path), "teacher")
        check(backbone, slow_copy)
        assert f" {teacher}* of" in caplog.messages[1]


def test_only_a_moving_average_is_taken_where_there_is_nothing_else(resnet, tmp_path):
    torch.save({"teacher": resnet.state_dict()}, tmp_path / "teacher.pth")
    backbone = resnet18()
    load_outside(backbone, str(tmp_path / "teacher.pth"))
    check(backbone, resnet)


def test_files_of_older_programs_are_read(resnet, tmp_path):
    """The format before torch 1.6, and batch norm before it counted batches."""
    state = {name: value for name, value in resnet.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    backbone = resnet18()
    load_outside(backbone, str(tmp_path / "old.pth"))
    check(backbone, resnet)


def test_densenets_of_torchvision_s_files_have_other_names(tmp_path):
    net = moved(models.densenet121())
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", k): v for k, v in net.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    backbone = build("densenet121", image_size=64, small_stem=False)
    load_outside(backbone, str(tmp_path / "densenet121-a639ec97.pth"))
    expected = {name: value for name, value in net.state_dict().items() if not name.startswith("classifier.")}
    found = backbone.net.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}),  # keeps head.norm, not head.fc
        ("vit_tiny_patch16_224", VIT),
        ("resnet10t", {}),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}),
    ],
)
def test_networks_of_timm_are_loaded_without_their_classifier(name, args, tmp_path):
    size = {"img_size": 64} if name.startswith(("vit", "swin")) else {}
    net = moved(timm.create_model(name, num_classes=7, **args, **size))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    backbone = build(f"timm/{name}", image_size=64, **args, **({"small_stem": False} if name == "resnet10t" else {}))
    load_outside(backbone, str(tmp_path / "net.pth"))
    x = torch.rand(2, 3, 64, 64)
    net.reset_classifier(0)
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(x), net((x - MEAN) / STD))


def test_a_network_that_asks_for_its_version_is_loaded(tmp_path):
    net = moved(models.mnasnet0_5())
    torch.save(net.state_dict(), tmp_path / "mnasnet.pth")
    backbone = build("mnasnet0_5", image_size=64, small_stem=False)
    load_outside(backbone, str(tmp_path / "mnasnet.pth"))
    assert torch.equal(backbone.net.layers[0].weight, net.layers[0].weight)


def test_positions_for_another_image_size_are_resampled_as_timm_does(tmp_path):
    net = moved(timm.create_model("vit_tiny_patch16_224", img_size=24, num_classes=1000, **VIT))
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    file = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "vit.pth")}}
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=16, **file, **VIT)
    backbone = build("vit_tiny_patch16_224", image_size=16, **VIT)
    load_outside(backbone, str(tmp_path / "vit.pth"))
    assert backbone.net.pos_embed.shape == (1, 17, 16)
    assert torch.equal(backbone.net.pos_embed, theirs.pos_embed)


def test_the_mean_over_patches_gets_a_new_norm(tmp_path):
    net = moved(timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=7, **VIT))
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    backbone = build("vit_tiny_patch16_224", image_size=16, global_pool="avg", **VIT).eval()
    load_outside(backbone, str(tmp_path / "vit.pth"))
    net.norm = nn.Identity()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = nn.functional.layer_norm(net.forward_features((x - MEAN) / STD)[:, 1:].mean(1), (16,), eps=1e-6)
        torch.testing.assert_close(backbone(x), expected)
    # not the other way round: the class token of such a network was never trained
    torch.save(
        build("vit_tiny_patch16_224", image_size=16, global_pool="avg", **VIT).net.state_dict(), tmp_path / "avg.pth"
    )
    with pytest.raises(
        ValueError, match=r"missing: norm\.weight, norm\.bias; unexpected: fc_norm\.weight, fc_norm\.bias"
    ):
        load_outside(build("vit_tiny_patch16_224", image_size=16, **VIT), str(tmp_path / "avg.pth"))


# ---- what is refused


@pytest.mark.parametrize(
    ("theirs", "name", "args", "words"),
    [
        (models.resnet34, "resnet18", {}, r"unexpected: layer1\.2\.conv1\.weight, .* and 93 more$"),
        (models.resnet18, "resnet34", {}, r"missing: layer1\.2\.conv1\.weight, .* and 77 more$"),
        (
            models.resnet18,
            "resnet18",
            {"small_stem": True},
            r"another shape: conv1\.weight \(64, 3, 7, 7\), here \(64, 3, 3, 3\)\. It has the other stem: "
            r"--model\.backbone_args\.small_stem false$",
        ),
        (
            lambda: build("resnet18", image_size=32).net,
            "resnet18",
            {"small_stem": False},
            r"--model\.backbone_args\.small_stem true$",
        ),
        (models.resnet18, "resnet18", {"in_channels": 1}, r"\. It is for images of 3 channels: give it such data$"),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, **VIT),
            "resnet18",
            {},
            "holds no network with the names of torchvision/resnet18, conv1.weight, .* it has cls_token, pos_embed",
        ),
        (
            lambda: nn.ModuleDict({"backbone": nn.Sequential(*list(ResNetGenerator("resnet-18").children())[:-1])}),
            "resnet18",
            {},
            r"holds no network with the names of torchvision/resnet18, .* it has backbone\.0\.weight",
        ),
    ],
)
def test_another_network_is_named_with_what_differs(theirs, name, args, words, tmp_path):
    torch.save(theirs().state_dict(), tmp_path / "net.pth")
    backbone = build(name, **{"image_size": 32, "small_stem": False, **args})
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        load_outside(backbone, str(tmp_path / "net.pth"))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("kind", ["state_dict", "student", "net"])
def test_a_file_with_other_objects_says_how_to_convert_it(kind, resnet, slow_copy, tmp_path, monkeypatch):
    content = {
        "state_dict": {"state_dict": under("module.", resnet.state_dict()), "args": argparse.Namespace(lr=1)},
        "student": {**dino(resnet, slow_copy), "args": argparse.Namespace(lr=1), "epoch": 3},
        "net": resnet,
    }[kind]
    named = r"torchvision\.models\.resnet\.ResNet" if kind == "net" else r"argparse\.Namespace"
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"does not load safely: .*, {named}.* give a.safetensors") as error:
        load_outside(resnet18(), str(tmp_path / "a.pth"))
    lines = str(error.value).splitlines()[1:]
    assert all(line.startswith("    ") for line in lines)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line[4:] for line in lines), {})
    backbone = resnet18()
    load_outside(backbone, "a.safetensors")
    check(backbone, resnet)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net.pth", b"<html>not found</html>", "is no file of weights"),
        ("net.pth", b"", "is no whole file of weights"),
        ("net.safetensors", b"<html>", "is no whole file of safetensors"),
    ],
)
def test_files_of_another_kind_are_refused(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load_outside(build("convnet", image_size=16, width=4), str(tmp_path / name))


def test_a_cut_file_is_refused(tmp_path):
    backbone = build("convnet", image_size=16, width=4)
    torch.save(backbone.net.state_dict(), tmp_path / "net.pth")
    (tmp_path / "net.pth").write_bytes((tmp_path / "net.pth").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"net\.pth is no (whole )?file of weights"):
        load_outside(backbone, str(tmp_path / "net.pth"))
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="it has no tensors"):
        load_outside(backbone, str(tmp_path / "none.pth"))


# ---- in a probe

ON_VIT = {"num_classes": 2, "backbone": "vit_tiny_patch16_224", "backbone_args": VIT, "image_size": 16}


@pytest.fixture
def vit(tmp_path):
    """A network of timm and its file."""
    net = moved(timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=7, **VIT))
    torch.save({"state_dict": under("backbone.", net.state_dict())}, tmp_path / "vit.ckpt")
    net.reset_classifier(0)
    return net, tmp_path / "vit.ckpt"


@torch.no_grad()
def on(net, x, mean=MEAN, std=STD):
    return net((x - mean) / std)


@pytest.mark.parametrize("cls", [LinearProbe, FineTune])
def test_the_file_is_read_once_when_a_run_begins(cls, vit, tmp_path):
    net, path = vit
    x = torch.rand(2, 3, 16, 16)
    model = cls(checkpoint=str(path), lr=0.0, **ON_VIT)
    trainer(tmp_path, max_epochs=1, limit_train_batches=2).fit(model, data())
    torch.testing.assert_close(model.eval()(x), on(net, x))
    path.unlink()
    last = tmp_path / "checkpoints" / "last.ckpt"
    again = cls.load_from_checkpoint(last, weights_only=True).eval()
    torch.testing.assert_close(again(x), on(net, x))
    assert again.hparams == model.hparams
    torch.testing.assert_close(load_backbone(last)(x), on(net, x))
    run = trainer(tmp_path, max_epochs=2, limit_train_batches=2)
    resumed = cls(**again.hparams)
    run.fit(resumed, data(), ckpt_path=last, weights_only=True)
    assert run.global_step == 4
    torch.testing.assert_close(resumed.eval()(x), on(net, x))
    tested = cls(**again.hparams)
    run = trainer(tmp_path, ResultsFile())
    run.test(tested, data(), ckpt_path=last, verbose=False, weights_only=True)
    torch.testing.assert_close(tested.eval()(x), on(net, x))
    assert json.loads((tmp_path / "results.json").read_text())["model"]["init_args"]["checkpoint"] == str(path)
    with pytest.raises(FileNotFoundError, match=f"there is no checkpoint {path}"):
        trainer(tmp_path / "new", max_epochs=1).fit(cls(checkpoint=str(path), **ON_VIT), data())


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_weights_are_scored_without_a_fit(verb, vit, tmp_path):
    net, path = vit
    model, x = LinearProbe(checkpoint=str(path), **ON_VIT), torch.rand(2, 3, 16, 16)
    quiet = {} if verb == "predict" else {"verbose": False}
    getattr(trainer(tmp_path, limit_val_batches=1.0), verb)(model, data(), **quiet)
    torch.testing.assert_close(model.eval()(x), on(net, x))


def test_normalisation_is_imagenet_s_unless_it_is_given(vit, tmp_path):
    net, path = vit
    args = {**ON_VIT, "backbone_args": {**VIT, "mean": 0.5, "std": 0.25}}
    model, x = LinearProbe(checkpoint=str(path), **args), torch.rand(2, 3, 16, 16)
    trainer(tmp_path, max_epochs=1, limit_train_batches=1).fit(model, data())
    torch.testing.assert_close(model.eval()(x), on(net, x, 0.5, 0.25))


def test_without_the_name_of_their_network_they_are_refused(vit, tmp_path):
    with pytest.raises(
        ValueError, match=r"vit\.ckpt was not written by ssl-lightning.* need their network's name: --model\.backbone"
    ):
        LinearProbe(num_classes=2, checkpoint=str(vit[1]))
    save_file(vit[0].state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(
        ValueError, match=r"vit\.safetensors was not written by ssl-lightning export.* name: --model\.backbone"
    ):
        LinearProbe(num_classes=2, checkpoint=str(tmp_path / "vit.safetensors"))


# ---- files of our own export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moco")
    args = {"width": 4, "mean": 0.25}
    trainer(folder, max_steps=3).fit(make(MoCo, backbone_args=args), data())
    return folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_an_exported_backbone_says_what_it_is(which, run, tmp_path):
    path, x = tmp_path / "net.safetensors", torch.rand(2, 3, 16, 16)
    export(run, path, which=which)
    expected = load_backbone(run, which)
    probe = LinearProbe(num_classes=2, checkpoint=str(path)).eval()
    assert torch.equal(probe(x), expected(x))
    assert torch.equal(load_backbone(path)(x), expected(x))
    assert probe.backbone.recipe["width"] == 4
    with pytest.raises(ValueError, match="trained with image_size 16, but the data have 32"):
        LinearProbe(num_classes=2, checkpoint=str(path), image_size=32)
    if which == "student":
        with pytest.raises(ValueError, match="holds no teacher: it was exported with --which student"):
            LinearProbe(num_classes=2, checkpoint=str(path), which="teacher")
    trainer(tmp_path, max_epochs=1, limit_train_batches=1).fit(probe, data())
    path.unlink()
    again = LinearProbe.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True).eval()
    assert torch.equal(again(x), expected(x))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_name_beside_a_file_of_ours_is_refused(suffix, run, tmp_path):
    path = run if suffix == ".ckpt" else tmp_path / "net.safetensors"
    if path != run:
        export(run, path)
    probe = LinearProbe(num_classes=2, checkpoint=str(path), backbone="convnet", image_size=16)
    with pytest.raises(ValueError, match=r"drop backbone=convnet: the checkpoint .* says which backbone it holds"):
        trainer(tmp_path, max_steps=1).fit(probe, data())


def test_an_export_in_the_other_library_s_layout_keeps_its_stem(tmp_path):
    backbone = trained("resnet18", image_size=32)
    export(save(tmp_path / "last.ckpt", backbone), tmp_path / "net.safetensors", layout="timm")
    found, x = load_backbone(tmp_path / "net.safetensors"), torch.rand(2, 3, 32, 32)
    assert found.name == "timm/resnet18"
    with torch.no_grad():
        torch.testing.assert_close(found(x), backbone(x))
