"""Overlap, success and precision by hand, and what the callbacks make of a method that tracks."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule

from callbacks.results import ResultsFile
from callbacks.tracking import FramePairs, OnePassEvaluation, distances, overlaps, precision_curve, success_curve
from datamodules import MovingDigits
from tests.methods.tiny import trainer

BOX = torch.tensor([[10.0, 20.0, 30.0, 40.0]])


def moved(x: float, y: float = 0.0, wider: float = 0.0) -> torch.Tensor:
    return BOX + torch.tensor([[x, y, wider, 0.0]])


def test_overlap_of_half_a_width_is_a_third():
    assert overlaps(moved(15), BOX).tolist() == pytest.approx([1 / 3])
    assert overlaps(BOX, BOX).tolist() == [1]
    assert overlaps(moved(30), BOX).tolist() == [0]  # they touch
    assert overlaps(moved(0, 0, 30), BOX).tolist() == pytest.approx([0.5])


def test_success_is_strict_so_that_a_perfect_tracker_scores_20_of_21():
    curve = success_curve(BOX.repeat(3, 1), BOX.repeat(3, 1))
    assert curve.tolist() == [1.0] * 20 + [0.0]
    assert curve.mean().item() == pytest.approx(20 / 21)


def test_success_counts_the_frames_above_each_threshold():
    boxes = torch.cat([BOX, moved(0, 0, 30), moved(100)])  # overlaps 1, 0.5, 0
    curve = success_curve(boxes, BOX.repeat(3, 1))
    assert curve[[0, 9, 10, 19, 20]].tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3, 0])  # 0.5 is not above 0.5


def test_precision_counts_centres_at_most_so_far_off():
    boxes = torch.cat([moved(12, 16), moved(12, 16.1), moved(0), moved(0, 0, 4)])
    assert distances(boxes, BOX.repeat(4, 1)).tolist() == pytest.approx([20, 20.08, 0, 2], abs=0.01)
    curve = precision_curve(boxes, BOX.repeat(4, 1))
    assert curve[[0, 1, 2, 19, 20, 21]].tolist() == [0.25, 0.25, 0.5, 0.5, 0.75, 1.0]


def test_frames_without_a_box_do_not_count():
    truth = torch.cat([BOX, BOX * torch.nan])
    assert success_curve(BOX.repeat(2, 1), truth).tolist() == success_curve(BOX, BOX).tolist()
    assert precision_curve(moved(9).repeat(2, 1), truth)[[8, 9]].tolist() == [0, 1]


class Oracle(LightningModule):
    """Knows the boxes of every second video, and stays at the first box in the others."""

    def track(self, video, box):
        knows = int(video.name[-1]) % 2 == 0
        return (video.boxes if knows else box.repeat(len(video), 1)), 0.5

    def displacements(self, video, first, later):
        centres = video.boxes[:, :2] + video.boxes[:, 2:] / 2
        true = centres[later] - centres[first]
        off = 5.9 if int(video.name[-1]) % 2 == 0 else 6.1
        return true + torch.tensor([off, 0.0]), true

    def default_crops(self):
        raise NotImplementedError

    def test_step(self, batch, batch_idx):
        pass


def test_scores_are_means_over_videos_with_their_protocols_and_a_picture(tmp_path):
    data = MovingDigits(train_videos=1, val_videos=0, test_videos=3, length=12)
    run = trainer(tmp_path, callbacks=[OnePassEvaluation(), FramePairs(gaps=(1, 5, 20)), ResultsFile()])
    run.test(Oracle(), data, verbose=False)
    results = json.loads(Path(tmp_path, "results.json").read_text())
    videos = data._ready().test
    stays = videos[1].boxes[:1].repeat(12, 1)
    expected = (20 / 21 + 20 / 21 + success_curve(stays, videos[1].boxes).mean().item()) / 3
    metrics, protocols = results["metrics"], results["protocols"]
    assert metrics["test/ope_success_auc"] == pytest.approx(expected, abs=1e-5)
    assert metrics["test/ope_fps"] == pytest.approx(24)
    assert metrics["test/pairs_k1"] == metrics["test/pairs_k5"] == pytest.approx(2 / 3)
    assert "test/pairs_k20" not in metrics  # the videos are too short
    assert protocols["test/ope_success_auc"].startswith("ope-v1: 3 videos")
    assert protocols["test/pairs_k5"].startswith("pairs-v1: within 6 cells")
    assert Path(tmp_path, "pictures", "tracking-test.png").stat().st_size > 10_000


def test_a_method_that_does_not_track_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="OnePassEvaluation needs a method that tracks, such as UDT"):
        OnePassEvaluation().setup(trainer(tmp_path), LightningModule(), "test")
