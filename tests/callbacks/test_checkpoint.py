import errno
import os

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessRaisedException

from callbacks.checkpoint import RunCheckpoint
from tests.callbacks.test_finite import Breaks, DataLoader


def trainer(folder, **changes):
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[RunCheckpoint(every_n_steps=4)],
        **changes,
    )


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(tmp_path, monkeypatch):
    last = tmp_path / "checkpoints" / "last.ckpt"
    run = trainer(tmp_path, max_epochs=1)
    save, calls = run.save_checkpoint, []

    def full(path, *args):
        calls.append(path)
        if len(calls) < 3:
            return save(path, *args)
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run, "save_checkpoint", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left.*MiB free.*last good checkpoint is .*last.ckpt"):
        run.fit(Breaks(at=99), DataLoader(torch.ones(20, 2)))
    assert torch.load(last, weights_only=True)["global_step"] == 8
    assert os.listdir(last.parent) == ["last.ckpt"]


def test_it_is_written_every_n_steps_and_after_every_epoch(tmp_path, monkeypatch):
    steps = []
    run = trainer(tmp_path, max_epochs=2)
    save = run.save_checkpoint
    monkeypatch.setattr(run, "save_checkpoint", lambda path: (steps.append(run.global_step), save(path)))
    run.fit(Breaks(at=99), DataLoader(torch.ones(8, 2)))
    assert steps == [4, 8, 12, 16]  # 8 and 16 once, after the epoch


def test_all_processes_leave_when_the_first_cannot_write(tmp_path, monkeypatch):
    def full(self, checkpoint, filepath, storage_options=None):
        if self.is_global_zero:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DDPStrategy, "save_checkpoint", full)
    run = trainer(tmp_path, max_epochs=1, strategy="ddp_fork", devices=2)
    with pytest.raises(ProcessRaisedException, match=r"cannot write .*last.ckpt: (No space left|another process)"):
        run.fit(Breaks(at=99), DataLoader(torch.ones(20, 2)))
