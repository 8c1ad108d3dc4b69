import copy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from callbacks.checkpoint import ExactResume, RunCheckpoint
from callbacks.weight_ema import WeightEMA
from ssl_lightning.export import load_backbone
from ssl_lightning.methods import Classifier
from tests.methods.test_methods import Cut, PowerCutError
from tests.methods.tiny import data, make, trainer

LENGTH = {"max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 1, "num_sanity_val_steps": 1}


class Watch(Callback):
    """The weights after each step, and what an evaluation's last hooks find in the network."""

    def __init__(self):
        self.steps, self.found = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.steps.append(copy.deepcopy(dict(pl_module.state_dict())))

    def on_validation_epoch_end(self, trainer, pl_module):
        self.found.append(copy.deepcopy(dict(pl_module.state_dict())))


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def run(folder, *callbacks, ckpt_path=None, **changes):
    model = make(Classifier, lr=1.0)
    upkeep = [ExactResume(), RunCheckpoint(every_n_steps=3)]
    fit = trainer(folder, callbacks=[*callbacks, *upkeep], **{**LENGTH, **changes})
    fit.fit(model, data(), ckpt_path=ckpt_path, weights_only=True)
    return model


def equal(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_follows_its_equation_and_is_evaluated_and_kept(accumulate, tmp_path):
    watch, before = Watch(), make(Classifier).state_dict()
    model = run(tmp_path, WeightEMA(0.7), watch, accumulate_grad_batches=accumulate)
    average, averages = dict(before), []
    for state in watch.steps[accumulate - 1 :: accumulate]:
        blend = {n: 0.7 * average[n] + 0.3 * t if t.is_floating_point() else t for n, t in state.items()}
        average = blend
        averages.append(average)
    assert "backbone.net.layers.1.running_var" in average
    saved = last(tmp_path)
    for expected, found in (
        (before, watch.found[0]),  # the sanity check
        (averages[len(averages) // 2 - 1], watch.found[1]),
        (average, watch.found[2]),
        (average, saved["state_dict"]),
        (average, model.state_dict()),
    ):
        torch.testing.assert_close(dict(found), expected)
    equal(saved["callbacks"]["WeightEMA"]["weights"], watch.steps[-1])
    loaded = load_backbone(tmp_path / "checkpoints" / "last.ckpt")
    torch.testing.assert_close(loaded.state_dict(), model.backbone.state_dict(), rtol=0, atol=0)


def test_it_changes_nothing_in_training(tmp_path):
    run(tmp_path / "with", WeightEMA())
    run(tmp_path / "without")
    equal(last(tmp_path / "with")["callbacks"]["WeightEMA"]["weights"], last(tmp_path / "without")["state_dict"])


def test_a_cut_run_goes_on_exactly(tmp_path):
    run(tmp_path / "whole", WeightEMA(0.7))
    with pytest.raises(PowerCutError):
        run(tmp_path / "cut", WeightEMA(0.7), Cut(7))
    assert last(tmp_path / "cut")["global_step"] == 6
    resumed = run(tmp_path / "cut", WeightEMA(0.7), ckpt_path=tmp_path / "cut" / "checkpoints" / "last.ckpt")
    one, two = last(tmp_path / "whole"), last(tmp_path / "cut")
    equal(one["state_dict"], two["state_dict"])
    equal(one["callbacks"]["WeightEMA"]["weights"], two["callbacks"]["WeightEMA"]["weights"])
    equal(one["state_dict"], resumed.state_dict())
    torch.testing.assert_close(one["optimizer_states"], two["optimizer_states"], rtol=0, atol=0)


def test_a_run_without_it_can_go_on_with_it(tmp_path):
    run(tmp_path, max_epochs=1)
    watch, start = Watch(), last(tmp_path)["state_dict"]
    run(tmp_path, WeightEMA(0.7), watch, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    average = start
    for state in watch.steps:
        average = {n: 0.7 * average[n] + 0.3 * t if t.is_floating_point() else t for n, t in state.items()}
    torch.testing.assert_close(dict(last(tmp_path)["state_dict"]), average)


class Tied(LightningModule):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.two.weight = self.one.weight

    def training_step(self, batch, batch_idx):
        return self.two(self.one(batch)).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_tied(folder, *callbacks, **changes):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    run = Trainer(accelerator="cpu", callbacks=list(callbacks), **{"max_epochs": 1, **quiet, **changes})
    torch.manual_seed(0)
    model = Tied()
    run.fit(model, DataLoader(torch.ones(4, 4)), DataLoader(torch.ones(2, 4)))
    return model


def test_a_checkpoint_of_an_evaluation_and_shared_weights(tmp_path):
    """ModelCheckpoint saves at the end of each of four validations, after which training goes on."""
    watch, keep = Watch(), ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", save_on_train_epoch_end=False)
    every = {"val_check_interval": 1, "num_sanity_val_steps": 0}
    fit_tied(tmp_path, WeightEMA(0.5), watch, keep, **every)
    without = Watch()
    fit_tied(tmp_path / "without", without, **every, enable_checkpointing=False)
    assert [s["one.weight"].tolist() for s in watch.steps] == [s["one.weight"].tolist() for s in without.steps]
    files = sorted(tmp_path.glob("step=*.ckpt"))
    assert len(files) == 4
    average = None
    for file, state, found in zip(files, watch.steps, watch.found, strict=True):
        saved = torch.load(file, weights_only=True)
        equal(saved["callbacks"]["WeightEMA"]["weights"], state)
        equal(saved["state_dict"], found)
        equal({"w": found["one.weight"]}, {"w": found["two.weight"]})
        if average is not None:
            torch.testing.assert_close(found["one.weight"], (average + state["one.weight"]) / 2)
        average = found["one.weight"]


def test_decay_and_precision_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\), got 1"):
        WeightEMA(1.0)
    with pytest.raises(ValueError, match="bf16-mixed"):
        fit_tied(tmp_path, WeightEMA(), precision="bf16-true", enable_checkpointing=False)
