"""The score of a pretext task on held-out images: one task for each, whatever the batches and the epoch."""

import pytest
import torch

from datamodules.batch import ImageBatch
from datamodules.draws import uniform
from ssl_lightning.methods import AET, MAE, VAE, Colorization, Jigsaw, RotNet, SimMIM
from tests.methods.tiny import data, make, trainer

NAMES = {RotNet: "accuracy", AET: "mse", Jigsaw: "accuracy", Colorization: "ab_error", MAE: "mse", SimMIM: "l1"}
NAMES |= {VAE: "negative_elbo"}


def held_out():
    """All held-out images in one batch."""
    photos = data()
    photos.setup("validate")
    batches = [batch[:3] for batch in photos.val_dataloader()[1]]
    image, label, index = (torch.cat(part) for part in zip(*batches, strict=True))
    return ImageBatch(image, label, index, (image / 255,))


@pytest.mark.parametrize("cls", NAMES)
def test_it_is_the_mean_over_the_held_out_images(cls, tmp_path):
    model, name = make(cls), f"pretext_{NAMES[cls]}"
    run = trainer(tmp_path, limit_val_batches=1.0)
    run.validate(model, data(), verbose=False)
    batch = held_out()
    assert len(batch.index) == 500  # not a whole number of batches
    expected = model.eval().scores(batch).double().mean().item()
    assert {key: value.item() for key, value in run.callback_metrics.items()} == {
        f"val/{name}": pytest.approx(expected, rel=1e-4)
    }
    assert list(model.protocols) == [name]


@pytest.mark.parametrize("cls", NAMES)
def test_it_is_what_training_logs_of_the_same_task(cls):
    model, batch = make(cls).eval(), held_out()
    model.uniform = uniform
    out = model.training_step(batch, 0)
    term = out if isinstance(out, torch.Tensor) else out.get(NAMES[cls], out["loss"])  # of some that is the score
    assert model.scores(batch).mean().item() == pytest.approx(term.item(), rel=1e-4)


@pytest.mark.parametrize("cls", NAMES)
def test_the_task_of_an_image_is_the_same_in_every_epoch_and_run(cls, monkeypatch):
    model, batch = make(cls).eval(), held_out()
    first = model.scores(batch)
    monkeypatch.setattr(cls, "current_epoch", 7)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert torch.equal(model.scores(batch), first)
