"""Two processes give what one gives with the joint batch: the loss and every parameter's gradient."""

import shutil

import pytest
import torch
from lightning.pytorch import Callback
from torch import distributed as dist
from torch import nn

from callbacks.checkpoint import ExactResume, RunCheckpoint, last_checkpoint
from ssl_lightning.methods import CLIP, MoCo, MoCoV3, SimCLR
from ssl_lightning.siamese import SiameseModule
from tests.methods.tiny import EVERY, data, make, trainer, without_batch_norm

STEPS = 3


class Writer(Callback):
    """Writes from the first process: each step's loss, meaned over processes, and gradients; the last state."""

    def __init__(self, path):
        self.path, self.steps = path, []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}
        self.steps.append({"grads": grads})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loss, index = outputs["loss"].clone(), [batch.index]
        if trainer.world_size > 1:
            dist.all_reduce(loss)
            loss /= trainer.world_size
            index = [torch.empty_like(batch.index) for _ in range(trainer.world_size)]
            dist.all_gather(index, batch.index)
        self.steps[-1] |= {"loss": loss, "index": torch.cat(index).sort().values}

    def on_train_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            torch.save({"steps": self.steps, "state": pl_module.state_dict()}, self.path)


def run(cls, processes, path, **changes):
    lr = 1e-4 if issubclass(cls, SiameseModule) else 0.1  # pixels in 0 ... 255: larger steps amplify rounding
    model = without_batch_norm(make(cls, decay_norm_and_bias=True, optimizer="SGD", lr=lr, **changes))
    several = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {}
    run = trainer(path.parent, max_steps=STEPS, callbacks=[Writer(path)], enable_checkpointing=False, **several)
    run.fit(model, data(cls, batch_size=16 // processes))
    return torch.load(path, weights_only=True)


def compare(one, two):
    for a, b in zip(one["steps"], two["steps"], strict=True):
        assert torch.equal(a["index"], b["index"])
        torch.testing.assert_close(a["loss"], b["loss"], rtol=1e-6, atol=1e-6)
        assert a["grads"].keys() == b["grads"].keys()
        for name, grad in a["grads"].items():
            scale = max(1.0, grad.abs().max().item())
            torch.testing.assert_close(grad, b["grads"][name], rtol=0, atol=1e-5 * scale)
    for name, tensor in one["state"].items():  # the queue and the teacher too
        torch.testing.assert_close(tensor, two["state"][name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("cls", EVERY)
def test_two_processes_equal_one(cls, tmp_path):
    compare(run(cls, 1, tmp_path / "one.pt"), run(cls, 2, tmp_path / "two.pt"))


def test_two_processes_equal_one_with_the_loss_of_siglip(tmp_path):
    compare(run(CLIP, 1, tmp_path / "one.pt", loss="siglip"), run(CLIP, 2, tmp_path / "two.pt", loss="siglip"))


@pytest.mark.parametrize("cls", [CLIP, SimCLR, MoCoV3])
def test_two_processes_in_chunks_equal_one_without(cls, tmp_path):
    compare(run(cls, 1, tmp_path / "one.pt"), run(cls, 2, tmp_path / "two.pt", chunk_size=3))


@pytest.mark.parametrize("cls", [CLIP, SimCLR, MoCo, MoCoV3])
def test_without_gathering_they_differ(cls, tmp_path, monkeypatch):
    one = run(cls, 1, tmp_path / "one.pt")
    for module in (cls.__module__, "ssl_lightning.queue"):
        monkeypatch.setattr(f"{module}.gather_rows", lambda x: x, raising=False)
        monkeypatch.setattr(f"{module}.first_row", lambda batch: 0, raising=False)
    two = run(cls, 2, tmp_path / "two.pt")
    with pytest.raises(AssertionError):
        compare(one, two)


class Keep(Callback):
    """Keeps the checkpoint of a step aside."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and trainer.is_global_zero:
            shutil.copy(last_checkpoint(trainer), self.path)


def test_two_processes_go_on_exactly(tmp_path):
    """With dropout, whose generators differ between processes, and each process's batch norm statistics."""

    def run(folder, *callbacks, ckpt_path=None):
        model = make(MoCo)
        model.head.append(nn.Dropout(0.2))
        several = {"strategy": "ddp_fork", "devices": 2, "limit_train_batches": 8, "max_epochs": 2}
        upkeep = [ExactResume(), RunCheckpoint(every_n_steps=3)]
        fit = trainer(tmp_path / folder, callbacks=[*upkeep, *callbacks], **several)
        fit.fit(model, data(batch_size=8), ckpt_path=ckpt_path, weights_only=True)
        return torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    whole = run("whole", Keep(13, tmp_path / "kept.ckpt"))
    assert torch.load(tmp_path / "kept.ckpt", weights_only=True)["global_step"] == 12
    resumed = run("resumed", ckpt_path=tmp_path / "kept.ckpt")
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
