"""The methods that take `checkpoint=`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from sklearn.linear_model import LogisticRegression
from torch import nn

from callbacks.knn import KNNMonitor
from callbacks.linear import LinearEvaluation
from callbacks.results import ResultsFile
from datamodules import CropFlipViews, Digits
from datamodules.batch import ImageBatch
from ssl_lightning.base import ImageModule
from ssl_lightning.export import load_backbone
from ssl_lightning.methods import AET, Classifier, FineTune, LinearProbe, MapProbe, MoCo, MoCoV3, SimCLR
from tests.methods.tiny import EVERY, data, make, trainer

PROBES = [
    (LinearProbe, {}),
    (LinearProbe, {"feature_layer": 1, "norm": False}),
    (MapProbe, {"hidden_dim": 8}),
    (MapProbe, {"head": "mlp", "hidden_dim": 8, "feature_layer": -1}),
    (MapProbe, {"head": "mlp", "hidden_layers": 0}),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """MoCo after a few steps: student, teacher and statistics differ from those at the start, and from each other."""
    folder = tmp_path_factory.mktemp("moco")
    trainer(folder, max_steps=4).fit(make(MoCo), data())
    return str(folder / "checkpoints" / "last.ckpt")


def batch(n=8, classes=2):
    return ImageBatch(
        torch.zeros(n, 3, 16, 16, dtype=torch.uint8),
        torch.arange(n) % classes,
        torch.arange(n),
        (torch.rand(n, 3, 16, 16),),
    )


class Modes(Callback):
    """Whether backbone and classifier are in training mode during training."""

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.backbone = {m.training for m in pl_module.backbone.modules()}
        self.classifier = {m.training for m in pl_module.classifier.modules()}
        self.optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize(("cls", "args"), PROBES)
def test_only_the_head_changes(cls, args, checkpoint, tmp_path):
    probe, modes = cls(num_classes=2, checkpoint=checkpoint, **args), Modes()
    head = {name: value.clone() for name, value in probe.classifier.state_dict().items()}
    trainer(tmp_path, modes, max_epochs=2, limit_train_batches=3, limit_val_batches=2).fit(probe, data())
    assert (modes.backbone, modes.classifier) == ({False}, {True})
    assert modes.optimized == {id(p) for p in probe.classifier.parameters()}
    trained, before = probe.backbone.state_dict(), load_backbone(checkpoint).state_dict()
    assert trained.keys() == before.keys()
    for name, value in before.items():  # statistics too
        assert torch.equal(trained[name], value), name
    moved = {name for name, value in probe.classifier.state_dict().items() if not torch.equal(value, head[name])}
    assert moved == set(head)


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_the_backbone_is_that_of_the_checkpoint(which, checkpoint):
    x = torch.rand(4, 3, 16, 16)
    backbone = load_backbone(checkpoint, which)
    assert torch.equal(LinearProbe(num_classes=2, checkpoint=checkpoint, which=which)(x), backbone(x))
    layer = LinearProbe(num_classes=2, checkpoint=checkpoint, which=which, feature_layer="layers.0")
    torch.testing.assert_close(layer(x), backbone.net.layers[0]((x - backbone.mean) / backbone.std).mean((2, 3)))
    assert not torch.equal(load_backbone(checkpoint)(x), load_backbone(checkpoint, "teacher")(x))


def test_the_loss_of_a_linear_probe_is_written_out(checkpoint):
    probe, b = LinearProbe(num_classes=2, checkpoint=checkpoint).double(), batch()
    b = b._replace(views=(b.views[0].double(),))
    f = load_backbone(checkpoint).double()(b.views[0]).detach().numpy()
    f = (f - f.mean(0)) / np.sqrt(f.var(0) + 1e-6)
    weight, bias = (p.detach().numpy() for p in probe.classifier[1].parameters())
    logits = f @ weight.T + bias
    losses = [math.log(sum(math.exp(v) for v in row)) - row[label] for row, label in zip(logits, b.label, strict=True)]
    assert probe.train().training_step(b, 0).item() == pytest.approx(sum(losses) / 8, rel=1e-6)
    assert probe.training_step(b, 0).item() == pytest.approx(math.log(2), abs=0.05)  # it knows nothing yet


@pytest.mark.parametrize(
    ("args", "parameters"),
    [
        ({"head": "mlp", "hidden_layers": 1}, 2_460_010),  # 2.46 M in AET's code: 12288 x 200, batch norm, 200 x 10
        ({"head": "mlp", "hidden_layers": 2}, 2_500_410),
        ({"head": "mlp", "hidden_layers": 0}, 122_890),
        ({"head": "conv"}, 408_586),
    ],
)
def test_heads_are_those_of_rotnet_and_aet(args, parameters):
    probe = MapProbe(num_classes=10, backbone="nin4", image_size=32, **args)
    x = torch.rand(2, 3, 32, 32)
    block2 = nn.Sequential(probe.backbone.net.block1, probe.backbone.net.block2)
    expected = block2((x - probe.backbone.mean) / probe.backbone.std)
    torch.testing.assert_close(probe.train().representation(x), expected)
    assert expected.shape == (2, 192, 8, 8)
    assert sum(p.numel() for p in probe.classifier.parameters()) == parameters
    norms = [m for m in probe.classifier if isinstance(m, nn.BatchNorm2d)]
    assert [m.affine for m in norms] == {"conv": [True] * 3, "mlp": [False] * (args.get("hidden_layers") == 0)}[
        args["head"]
    ]


def test_a_map_probe_reads_the_places_of_a_transformer():
    vit = {"patch_size": 8, "depth": 2}
    probe = MapProbe(num_classes=2, backbone="vit_tiny_patch16_224", backbone_args=vit, image_size=16, feature_layer=1)
    assert probe.representation(torch.rand(3, 3, 16, 16)).shape == (3, 192, 2, 2)
    assert probe.classifier(probe.representation(torch.rand(3, 3, 16, 16))).shape == (3, 2)


@pytest.mark.parametrize(("cls", "args"), PROBES[1:3])
def test_its_own_checkpoint_needs_the_other_run_no_more(cls, args, checkpoint, tmp_path):
    gone = tmp_path / "gone.ckpt"
    gone.write_bytes(Path(checkpoint).read_bytes())
    probe = cls(num_classes=2, checkpoint=str(gone), **args)
    trainer(tmp_path, max_epochs=1, limit_train_batches=2).fit(probe, data())
    gone.unlink()
    last = tmp_path / "checkpoints" / "last.ckpt"
    again = cls.load_from_checkpoint(last, weights_only=True).eval()
    x = torch.rand(3, 3, 16, 16)
    assert torch.equal(again.classifier(again.representation(x)), probe.eval().classifier(probe.representation(x)))
    assert again.hparams == probe.hparams
    assert torch.equal(load_backbone(last)(x), load_backbone(checkpoint)(x))
    run = trainer(tmp_path, max_epochs=2, limit_train_batches=2)
    run.fit(cls(**again.hparams), data(), ckpt_path=last, weights_only=True)
    assert run.global_step == 4


@pytest.mark.parametrize("cls", [c for c in EVERY if issubclass(c, ImageModule)], ids=lambda cls: cls.__name__)
def test_probe_and_fine_tuning_follow_every_method(cls, tmp_path):
    """A probe of a probe, too."""
    model = make(cls)
    trainer(tmp_path, max_steps=1).fit(model, data(cls))
    last, x = str(tmp_path / "checkpoints" / "last.ckpt"), torch.rand(2, 3, 16, 16)
    networks = {"student": model.backbone, "teacher": getattr(model, "teacher_backbone", None)}
    for which, network in networks.items():
        for transfer in (LinearProbe, FineTune) if network is not None else ():
            probe = transfer(num_classes=2, checkpoint=last, which=which, warmup_epochs=0)
            with torch.no_grad():
                torch.testing.assert_close(probe.eval()(x), network.eval()(x), rtol=0, atol=0)
            before = {name: value.clone() for name, value in probe.state_dict().items()}
            trainer(tmp_path / which, max_steps=1).fit(probe, data())
            moved = {n for n, value in probe.state_dict().items() if not torch.equal(value, before[n])}
            trained = {name for name, p in probe.named_parameters() if p.requires_grad}
            assert trained <= moved if transfer is LinearProbe else any(n.startswith("backbone.net.") for n in moved)
            assert transfer is FineTune or not any(name.startswith("backbone.") for name in moved)


def test_the_accuracy_has_a_protocol_of_its_own(checkpoint, tmp_path, capsys):
    probe = LinearProbe(num_classes=2, checkpoint=checkpoint, feature_layer=1)
    run = trainer(tmp_path, KNNMonitor(k=3), ResultsFile(), max_epochs=2, limit_train_batches=2)
    run.fit(probe, data())
    run.test(probe, data(), verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())
    expected = "linear-probe-v1: frozen,eval mode,layer layers.5,batch norm,SGD,lr=0.1 for B=256,after 2 epochs"
    assert results["protocols"]["test/top1"] == expected
    assert results["protocols"]["test/knn_top1"].endswith(",layer layers.5")
    assert results["model"]["init_args"]["checkpoint"] == checkpoint

    right = total = 0
    for b in run.test_dataloaders[1]:
        logits = probe.eval().classifier(
            load_backbone(checkpoint).layer_features(b.image / 255, ["layers.5"])["layers.5"]
        )
        right, total = right + (logits.argmax(1) == b.label).sum().item(), total + len(b.label)
    assert results["metrics"]["test/top1"] == pytest.approx(right / total)

    # of a checkpoint, the epochs that it was trained
    loaded = LinearProbe.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    trainer(tmp_path, ResultsFile()).test(loaded, data(), verbose=False)
    assert json.loads((tmp_path / "results.json").read_text())["protocols"]["test/top1"] == expected


@pytest.mark.parametrize("norm", [True, False])
def test_a_linear_probe_finds_what_logistic_regression_finds(norm, tmp_path):
    digits = Digits(batch_size=64, image_size=16, views=CropFlipViews(padding=0, flip=0))
    torch.manual_seed(0)
    lr = 0.1 if norm else 1.0
    args = {"backbone": "convnet", "backbone_args": {"width": 4}, "image_size": 16, "norm": norm, "lr": lr}
    probe = LinearProbe(num_classes=10, **args)
    run = trainer(tmp_path, max_epochs=20, enable_checkpointing=False, callbacks=[LinearEvaluation(epochs=5)])
    run.fit(probe, digits)
    run.test(probe, digits, verbose=False)
    found = run.callback_metrics
    sets = []
    for loader in run.test_dataloaders:
        rows = [(probe(b.image / 255).detach(), b.label) for b in loader]
        sets.append([torch.cat(column).numpy() for column in zip(*rows, strict=True)])
    (x, y), (x_test, y_test) = sets
    mean, std = x.mean(0), x.std(0) + 1e-6
    oracle = LogisticRegression(max_iter=2000).fit((x - mean) / std, y).score((x_test - mean) / std, y_test)
    assert 0.7 < oracle < 0.99
    assert found["test/top1"] == pytest.approx(oracle, abs=0.04)


def test_a_classifier_reads_its_backbone_whatever_layer_is_evaluated(tmp_path):
    scores = []
    for layer in (None, 0, [0, 1]):
        model = make(Classifier, feature_layer=layer)
        run = trainer(tmp_path, KNNMonitor(k=3), max_steps=3)
        run.fit(model, data())
        run.test(model, data(), verbose=False)
        scores.append({name: float(value) for name, value in run.callback_metrics.items()})
    assert len({s["test/top1"] for s in scores}) == 1
    assert scores[1].keys() == {"test/top1", "test/knn_top1"}
    assert scores[2].keys() == {"test/top1", "test/knn_top1/layers.2", "test/knn_top1/layers.5"}
    assert scores[1]["test/knn_top1"] == scores[2]["test/knn_top1/layers.2"]


# ---- feature_layer


def test_a_layer_changes_features_and_nothing_else(tmp_path):
    weights = []
    x = torch.rand(2, 3, 16, 16)
    for layer in (None, "layers.4"):
        model = make(SimCLR, feature_layer=layer)
        trainer(tmp_path, max_steps=2).fit(model, data())
        weights.append(model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert model.eval()(x).shape == (2, 8)
    assert torch.equal(model(x), model.backbone.layer_features(x, ["layers.4"])["layers.4"])
    other = SimCLR.load_from_checkpoint(
        tmp_path / "checkpoints" / "last.ckpt", weights_only=True, feature_layer=[0, -1]
    )
    assert [f.shape for f in other(x).values()] == [(2, 4), (2, 32)]
    assert torch.equal(load_backbone(tmp_path / "checkpoints" / "last.ckpt")(x), model.backbone(x))


@torch.no_grad()
@pytest.mark.parametrize("cls", [SimCLR, MoCo])
def test_the_projection_head_is_a_layer_too(cls, tmp_path):
    x = torch.rand(2, 3, 16, 16)
    model = make(cls, feature_layer="head").eval()
    expected = model.head(model.backbone(x))
    assert expected.shape == (2, 8)
    assert torch.equal(model(x), expected)
    several = make(cls, feature_layer=["head", 0, "layers.5"]).eval()
    found = several(x)
    assert list(found) == ["head", "layers.2", "layers.5"]
    assert torch.equal(found["head"], expected)
    assert torch.equal(found["layers.2"], make(cls, feature_layer=0).eval()(x))
    run = trainer(tmp_path, KNNMonitor(k=3), ResultsFile())
    run.test(model, data(), verbose=False)
    protocols = json.loads((tmp_path / "results.json").read_text())["protocols"]
    assert protocols["test/knn_top1"].endswith(",layer head")


def test_the_method_s_head_comes_before_a_network_s():
    """timm's networks call what is left of their classifier so."""
    vit = {"patch_size": 8, "depth": 1}
    model = make(SimCLR, backbone="vit_tiny_patch16_224", backbone_args=vit, feature_layer="head").eval()
    assert "head" in model.backbone.layers
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 8)


@pytest.mark.parametrize("cls", [Classifier, MoCoV3, AET])
@pytest.mark.parametrize("layer", ["head", [0, "head"]])
def test_a_method_without_a_projection_head_says_so(cls, layer, tmp_path):
    """AET's head reads the features of two images."""
    message = rf"{cls.__name__} has no projection head on its features: choose .* 0 \(layers\.2\), 1 \(layers\.5\)"
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).test(make(cls, feature_layer=layer), data(), verbose=False)


@pytest.mark.parametrize("layer", [4, "layers.12", ["layers.2", 7]])
def test_a_layer_that_does_not_exist_is_an_error_at_construction(layer):
    with pytest.raises(ValueError, match=r"has no layer .* 0 \(layers\.2\), 1 \(layers\.5\)"):
        make(SimCLR, feature_layer=layer)


# ---- what is refused


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint nothere"):
        LinearProbe(num_classes=2, checkpoint="nothere.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"foreign\.ckpt was not written by ssl-lightning"):
        LinearProbe(num_classes=2, checkpoint=str(tmp_path / "foreign.ckpt"))


@pytest.mark.parametrize(("size", "value", "theirs"), [("image_size", 32, 16), ("in_channels", 1, 3)])
def test_data_of_another_size_are_refused(size, value, theirs, checkpoint):
    with pytest.raises(ValueError, match=rf"with {size} {theirs}, but the data have {value}: .*--data.{size} {theirs}"):
        LinearProbe(num_classes=2, checkpoint=checkpoint, **{size: value})


def test_without_a_checkpoint_a_backbone_is_needed():
    with pytest.raises(ValueError, match="LinearProbe needs a checkpoint, or a backbone to leave untrained"):
        LinearProbe(num_classes=2)


def test_a_backbone_beside_the_checkpoint_is_refused(checkpoint, tmp_path):
    probe = LinearProbe(num_classes=2, checkpoint=checkpoint, backbone="convnet", image_size=16)
    with pytest.raises(ValueError, match="drop backbone=convnet"):
        trainer(tmp_path, max_steps=1).fit(probe, data())


def test_going_on_with_another_checkpoint_is_refused(checkpoint, tmp_path):
    trainer(tmp_path, max_epochs=1, limit_train_batches=1).fit(
        LinearProbe(num_classes=2, checkpoint=checkpoint), data()
    )
    last = tmp_path / "checkpoints" / "last.ckpt"
    other = LinearProbe(num_classes=2, checkpoint=str(last))
    with pytest.raises(ValueError, match=r"would be ignored: this run began with .*moco"):
        trainer(tmp_path, max_epochs=2).fit(other, data(), ckpt_path=last, weights_only=True)


def test_layers_without_a_map_are_refused(checkpoint):
    with pytest.raises(ValueError, match="gives a vector of 512 numbers, not a map"):
        MapProbe(num_classes=2, backbone="resnet18", image_size=32, feature_layer="fc")
    with pytest.raises(ValueError, match="LinearProbe has no projection head"):
        LinearProbe(num_classes=2, checkpoint=checkpoint, feature_layer="head")
    with pytest.raises(ValueError, match="has no layer 9"):
        LinearProbe(num_classes=2, checkpoint=checkpoint, feature_layer=9)


@pytest.mark.parametrize(
    ("args", "message"), [({"head": "fc"}, "head must be conv or mlp"), ({"hidden_layers": -1}, "at least 0")]
)
def test_numbers_out_of_range_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        MapProbe(num_classes=2, backbone="convnet", image_size=16, **args)
