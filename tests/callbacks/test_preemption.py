import os
import signal
import stat

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from callbacks.checkpoint import RunCheckpoint
from callbacks.preemption import Preemption
from tests.callbacks.test_finite import Breaks, DataLoader


class Send(Callback):
    """The cluster's signal, in the middle of a batch."""

    def __init__(self, number, batch):
        self.number, self.batch = number, batch

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), self.number)


def preempted(folder, number, batch=2, **changes):
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        max_epochs=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[Preemption(), RunCheckpoint(every_n_steps=0), Send(number, batch)],
        **changes,
    )
    with pytest.raises(SystemExit) as leaving:
        trainer.fit(Breaks(at=99), DataLoader(torch.ones(6, 2)))
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return leaving.value.code, saved["global_step"]


def test_sigterm_finishes_the_step_saves_and_exits_with_143(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert preempted(tmp_path, signal.SIGTERM) == (143, 3)
    assert signal.getsignal(signal.SIGTERM) == before


def test_after_a_whole_fit_signals_are_as_before(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    fit = Trainer(default_root_dir=tmp_path, max_epochs=1, log_every_n_steps=1, callbacks=[Preemption()], **settings)
    fit.fit(Breaks(at=99), DataLoader(torch.ones(6, 2)))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_accumulation_is_finished_first(tmp_path):
    assert preempted(tmp_path, signal.SIGTERM, batch=2, accumulate_grad_batches=2) == (143, 2)


def test_the_last_batch_of_an_epoch_waits_for_its_validation(tmp_path):
    assert preempted(tmp_path, signal.SIGTERM, batch=5) == (143, 6)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1


class SendToOne(Send):
    """The same to the second of two processes only."""

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_rank == 1:
            super().on_before_backward(trainer, pl_module, loss)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
@pytest.mark.parametrize(("batch", "step"), [(0, 2), (1, 3), (2, 3)])
def test_two_processes_leave_together_though_one_was_signalled(tmp_path, number, code, batch, step):
    """One step later; the last batch (2) and the one before wait for the end of the epoch."""
    with pytest.raises(Exception, match=r"143|138") as leaving:
        Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            devices=2,
            strategy="ddp_fork",
            logger=False,
            max_epochs=2,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Preemption(), RunCheckpoint(every_n_steps=0), SendToOne(number, batch)],
        ).fit(Breaks(at=99), DataLoader(torch.ones(6, 2)))
    assert str(code) in str(leaving.value)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({"SLURM_JOB_ID": "17"}, "17"),
        ({"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}, "5_2"),
        ({}, None),
    ],
)
def test_sigusr1_requeues_the_job_and_exits_with_138(tmp_path, monkeypatch, environment, job):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert preempted(tmp_path, signal.SIGUSR1) == (138, 3)
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else None) == (job and f"requeue {job}\n")


def test_without_scontrol_the_run_still_leaves_in_good_order(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.warns(UserWarning, match="job 17 is not queued again: there is no scontrol on PATH"):
        assert preempted(tmp_path, signal.SIGUSR1) == (138, 3)
