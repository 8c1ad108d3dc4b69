"""A step never waits for the device: on the meta device there is no number that it could read."""

from contextlib import nullcontext

import pytest
import torch

from ssl_lightning.methods import DetectionTransfer
from ssl_lightning.optim import optimizer_class, param_groups
from tests.methods.tiny import EVERY, make, training_batch

# how many boxes are found, matched and suppressed is a number that torchvision's Faster R-CNN reads from the device
WAITS = {DetectionTransfer}


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """Which does not know the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())


@pytest.mark.parametrize("cls", [cls for cls in EVERY if cls not in WAITS])
def test_views_loss_and_gradient_read_nothing_from_the_device(cls):
    model = make(cls).to("meta")
    loss = model.training_step(training_batch(cls, model, "meta"), 0)
    (loss if isinstance(loss, torch.Tensor) else loss["loss"]).backward()


@pytest.mark.parametrize("name", ["SGD", "LARS", "LAMB", "AdamW"])
def test_optimizers_read_nothing_from_the_device(name):
    model = make(EVERY[0]).to("meta")
    optimizer = optimizer_class(name)(param_groups(model, 0.1, False), lr=0.1)
    model(torch.empty(16, 3, 16, 16, device="meta")).sum().backward()
    optimizer.step()


def test_the_meta_device_refuses_to_be_read():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.empty(1, device="meta").item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.empty(1, device="meta").nonzero()
