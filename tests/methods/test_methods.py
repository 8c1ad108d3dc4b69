"""What holds for every method, one body each."""

import inspect
import pkgutil
from importlib import import_module

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn import functional as F

import ssl_lightning.methods
from callbacks.checkpoint import ExactResume, RunCheckpoint
from ssl_lightning.base import SSLModule
from tests.methods.tiny import EVERY, TINY, data, example, first_layers, make, trainer


def test_the_table_has_every_method():
    found = set()
    for info in pkgutil.walk_packages(ssl_lightning.methods.__path__, "ssl_lightning.methods."):
        classes = vars(import_module(info.name)).values()
        classes = {c for c in classes if inspect.isclass(c) and issubclass(c, SSLModule)}
        found |= {c for c in classes if c.__module__.startswith(ssl_lightning.methods.__name__)}
    assert found == set(TINY)


def sums(batch):
    """Of all tensors of a batch."""
    parts = [part for field in batch for part in (field if isinstance(field, tuple) else [field])]
    return [part.double().sum().item() for part in parts]


class Recorder(Callback):
    """The metrics of each step, and the gradients of the last one."""

    def __init__(self):
        self.steps, self.without_gradient = {}, set()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.without_gradient = {n for n, p in pl_module.named_parameters() if p.requires_grad and p.grad is None}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps[trainer.current_epoch, batch_idx] = (
            outputs["loss"].item(),
            trainer.optimizers[0].param_groups[0]["lr"],
            batch.index.tolist(),
            *sums(batch),
        )


@pytest.mark.parametrize("cls", EVERY)
def test_two_steps_move_the_backbone_and_give_every_parameter_a_gradient(cls, tmp_path):
    model = make(cls)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    recorder = Recorder()
    trainer(tmp_path, recorder, max_steps=2).fit(model, data(cls))
    after = model.state_dict()
    assert recorder.without_gradient == set()
    assert all(torch.isfinite(torch.tensor(s[0])) for s in recorder.steps.values())
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], after[n])}
    assert {n for n, p in model.named_parameters() if p.requires_grad} <= moved
    for name, teacher in model.named_children():
        if name.startswith("teacher_"):
            student = getattr(model, name.removeprefix("teacher_"))
            for p, q in zip(teacher.parameters(), student.parameters(), strict=True):
                assert not p.requires_grad
                assert not torch.equal(p, q)
            assert {f"{name}.{n}" for n, _ in teacher.named_parameters()} <= moved


@pytest.mark.parametrize("cls", EVERY)
def test_features_come_from_forward_and_survive_a_checkpoint(cls, tmp_path):
    model = make(cls)
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, data(cls))
    again = cls.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True).eval()
    x = example(cls)
    dim = model.dim if hasattr(model, "dim") else model.backbone.dim
    assert model.eval()(x).shape == (3, dim)
    assert torch.equal(again(x), model(x))


class PowerCutError(Exception):
    """The machine is gone."""


class Cut(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise PowerCutError


def drop(network, inputs, features):
    """Makes a network draw from the global generator."""
    return F.dropout(features, 0.2, network.training)


def states(folder, *callbacks, cls, ckpt_path=None, **changes):
    """A run of 3 epochs of 8 batches, cut by a callback or not: what each batch was, and the last checkpoint."""
    model = make(cls)
    first_layers(model).register_forward_hook(drop)
    recorder = Recorder()
    settings = {"max_epochs": 3, "limit_train_batches": 8, **changes}
    fit = trainer(folder, callbacks=[ExactResume(), RunCheckpoint(every_n_steps=3), recorder, *callbacks], **settings)
    try:
        fit.fit(model, data(cls), ckpt_path=ckpt_path, weights_only=True)
    except PowerCutError:
        assert callbacks
    return recorder.steps, torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def compare(whole, resumed):
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, resumed["state_dict"][name]), name
    for key in ("optimizer_states", "lr_schedulers", "callbacks", "global_step", "epoch"):
        torch.testing.assert_close(whole[key], resumed[key], rtol=0, atol=0)
    assert whole["exact_resume"]["loader"] == resumed["exact_resume"]["loader"]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("cls", EVERY)
def test_a_run_cut_in_the_middle_of_an_epoch_goes_on_exactly(cls, accumulate, tmp_path):
    same = {"cls": cls, "accumulate_grad_batches": accumulate}
    steps, whole = states(tmp_path / "whole", **same)
    assert len(steps) == 24
    _, cut = states(tmp_path / "cut", Cut(15 // accumulate), **same)  # in the second epoch
    saved = cut["global_step"] * accumulate
    assert saved % 8 != 0
    torch.manual_seed(123)  # a new process
    rest, resumed = states(tmp_path / "cut", ckpt_path=tmp_path / "cut" / "checkpoints" / "last.ckpt", **same)
    assert rest == dict(list(steps.items())[saved:])
    compare(whole, resumed)


def test_another_global_batch_on_resuming_is_an_error(tmp_path):
    trainer(tmp_path, max_epochs=1).fit(make(EVERY[0], base_batch_size=256), data())
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"learning rate 0\.00625, a global batch of 32 would take 0\.0125"):
        trainer(tmp_path, max_epochs=2).fit(
            make(EVERY[0], base_batch_size=256), data(batch_size=32), ckpt_path=last, weights_only=True
        )


@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 24}])
def test_a_run_cut_after_an_epoch_goes_on_exactly(length, tmp_path):
    same = {"cls": EVERY[0], **length}
    steps, whole = states(tmp_path / "whole", **same)
    _, cut = states(tmp_path / "cut", Cut(8), **same)  # the last checkpoint is that after the first epoch
    assert cut["global_step"] == 8
    torch.manual_seed(123)
    rest, resumed = states(tmp_path / "cut", ckpt_path=tmp_path / "cut" / "checkpoints" / "last.ckpt", **same)
    assert rest == dict(list(steps.items())[8:])
    compare(whole, resumed)
