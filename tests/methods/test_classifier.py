"""Classifier: GoogLeNet's auxiliary classifiers."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import googlenet

from datamodules.batch import ImageBatch
from ssl_lightning.methods import Classifier
from tests.methods.tiny import data, make, trainer

PLAIN = {"mean": 0.0, "std": 1.0, "small_stem": False}


def test_googlenet_has_the_parameters_of_torchvisions():
    with torch.device("meta"):
        theirs = googlenet(weights=None, aux_logits=True, init_weights=False)
        ours, without = (Classifier(num_classes=1000, backbone="googlenet", aux_weight=w) for w in (0.3, 0.0))
    count = sum(p.numel() for p in theirs.parameters())
    assert count == 13_004_888
    assert sum(p.numel() for p in ours.parameters()) == count
    assert sum(p.numel() for p in without.parameters()) == 6_624_904


@pytest.fixture
def model():
    model = Classifier(num_classes=3, backbone="googlenet", backbone_args=PLAIN, image_size=64, label_smoothing=0.1)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_loss_and_gradients_are_those_of_torchvisions(model):
    theirs = googlenet(weights=None, num_classes=3, aux_logits=True, init_weights=False, dropout=0.0, dropout_aux=0.0)
    state = {k.removeprefix("backbone.net."): v for k, v in model.state_dict().items() if k.startswith("backbone.net.")}
    heads = {"auxiliary.0.": "aux1.", "auxiliary.1.": "aux2.", "classifier.": "fc."}
    for ours, name in heads.items():
        own = {k: v for k, v in model.state_dict().items() if k.startswith(ours)}
        state |= {k.replace(ours, name): v for k, v in own.items()}
    theirs.load_state_dict(state)

    model, theirs = model.double(), theirs.double()  # batch norm of few places amplifies the rounding
    model.cross_entropy = partial(F.cross_entropy, label_smoothing=0.1)  # in float64 too
    x, label = torch.rand(4, 3, 64, 64).double(), torch.tensor([0, 2, 1, 2])
    out = theirs(x)
    losses = [F.cross_entropy(logits, label, label_smoothing=0.1) for logits in out]
    expected = losses[0] + 0.3 * (losses[1] + losses[2])
    expected.backward()

    found = model.training_step(ImageBatch(x, label, torch.arange(4), (x,)), 0)
    found["loss"].backward()
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(found["main"], losses[0])
    grads = {n.removeprefix("backbone.net."): p.grad for n, p in model.named_parameters()}
    grads = {next((n.replace(o, t) for o, t in heads.items() if n.startswith(o)), n): g for n, g in grads.items()}
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(grads.pop(name), p.grad, rtol=1e-6, atol=1e-9)
    assert not grads


def test_its_checkpoint_holds_the_heads_and_loads(model, tmp_path):
    trainer(tmp_path, max_steps=1).fit(model, data(batch_size=2, image_size=64))
    again = Classifier.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert sum(k.startswith("auxiliary.") for k in again.state_dict()) == 20


def test_other_networks_have_no_auxiliary_classifiers():
    assert not make(Classifier).auxiliary
    with pytest.raises(ValueError, match="aux_weight must be at least 0, got -1"):
        make(Classifier, aux_weight=-1.0)
