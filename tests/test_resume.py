"""A run that is killed and started again with the same command ends where the uninterrupted run ends."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor

from datamodules.batch import ImageBatch
from ssl_lightning.__main__ import main
from ssl_lightning.methods import MoCo

COMMAND = (
    'fit --model MoCo --model.backbone convnet --model.backbone_args {"width":4} --model.queue_size 128 --data Digits '
    "--data.batch_size 64 --data.image_size 16 --data.num_workers 1 --trainer.max_epochs 3 "
    "--trainer.log_every_n_steps 1 --trainer.accelerator cpu --trainer.enable_progress_bar false "
    "--checkpoint.every_n_steps 5 --model.bn_splits 2"
).split()


def rows(run: Path) -> dict[tuple[int, str], dict[str, float]]:
    """Metrics by step and name; a step that was run twice counts the second time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], key): value for line in lines for key, value in line.items() if key not in ("step", "epoch")}


def start(run: Path, stop: int) -> None:
    """Run the command, and hang in the optimizer step `stop`."""
    step = MoCo.training_step

    def hang(self: MoCo, batch: ImageBatch, batch_idx: int) -> Tensor:
        if self.trainer.global_step == stop:
            time.sleep(600)
        return step(self, batch, batch_idx)

    MoCo.training_step = hang  # in this process alone
    main([*COMMAND, "--run", str(run)])


def kill(run: Path, after: int) -> None:
    """Start the command in a process and SIGKILL it once it has logged step `after`."""
    process = multiprocessing.get_context("fork").Process(target=start, args=(run, after + 2))
    process.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.01)
        if (run / "metrics.jsonl").exists() and f'"step": {after},' in (run / "metrics.jsonl").read_text():
            break
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_sigkill_in_the_middle_of_an_epoch_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main([*COMMAND, "--run", str(whole)])
    kill(killed, after=31)  # of 66, in the second epoch of 22
    saved = torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert saved == 30
    main([*COMMAND, "--run", str(killed), "--ckpt_path", "last"])

    ends = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, killed)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 66
    for name, tensor in ends[0]["state_dict"].items():  # queue and teacher among them
        assert torch.equal(tensor, ends[1]["state_dict"][name]), name
    one, two = rows(whole), rows(killed)
    assert {name for _, name in one} >= {"train/loss", "train/lr", "val/knn_top1", "val/feature_rank"}
    assert {key: value for key, value in one.items() if key[0] >= saved} == {
        key: value for key, value in two.items() if key[0] >= saved
    }
