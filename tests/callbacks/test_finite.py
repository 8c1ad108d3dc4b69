import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import DataLoader

from callbacks.checkpoint import RunCheckpoint
from callbacks.finite import FiniteLoss


class Breaks(LightningModule):
    """Its loss is not a number from batch `at` on."""

    def __init__(self, at, term="loss"):
        super().__init__()
        self.net, self.at, self.term = nn.Linear(2, 1), at, term

    def training_step(self, batch, batch_idx):
        value = self.net(batch).mean()
        bad = value * (float("nan") if batch_idx >= self.at else 1)
        return {"loss": bad if self.term == "loss" else value, "align": bad.detach()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(model, folder, log_every_n_steps, every_n_steps=2, **changes):
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=log_every_n_steps,
        callbacks=[FiniteLoss(), RunCheckpoint(every_n_steps)],
        **changes,
    )
    trainer.fit(model, DataLoader(torch.ones(20, 2)))
    return trainer


def test_the_step_the_term_and_the_last_good_checkpoint_are_named(tmp_path):
    model = Breaks(at=9, term="align")
    words = r"train/align at step 9; the last good checkpoint is .*last.ckpt"
    with pytest.raises(FloatingPointError, match=words):
        fit(model, tmp_path, log_every_n_steps=6, every_n_steps=8)
    assert model.trainer.global_step == 12  # when the host looked


def test_the_term_is_named_before_a_checkpoint_is_written(tmp_path):
    with pytest.raises(FloatingPointError, match="train/loss at step 9 and train/align at step 9; the last good"):
        fit(Breaks(at=9), tmp_path, log_every_n_steps=100)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 8
    assert all(t.isfinite().all() for t in saved["state_dict"].values())


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    class BreaksWeights(Breaks):
        def on_before_zero_grad(self, optimizer):
            if self.trainer.global_step == 9:
                self.net.weight.data[0, 1] = torch.inf

        def training_step(self, batch, batch_idx):
            return {"loss": self.net.bias.sum()}

    with pytest.raises(FloatingPointError, match=r"net\.weight is not finite at step 10: no checkpoint written"):
        fit(BreaksWeights(at=99), tmp_path, log_every_n_steps=100)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8


def test_a_finite_run_ends(tmp_path):
    assert fit(Breaks(at=99), tmp_path, log_every_n_steps=3).global_step == 20


class BreaksOnOne(Breaks):
    """Its loss is not a number on the second process alone, and no gradient carries that to the first."""

    def training_step(self, batch, batch_idx):
        bad = self.trainer.global_rank == 1 and batch_idx >= self.at
        return {"loss": self.net(batch).mean(), "align": torch.tensor(float("nan") if bad else 0.0)}


def test_all_processes_leave_when_one_has_a_term_that_is_not_finite(tmp_path):
    with pytest.raises(ProcessRaisedException, match="train/align at step 3"):
        fit(BreaksOnOne(at=3), tmp_path, log_every_n_steps=5, every_n_steps=0, strategy="ddp_fork", devices=2)
