"""UDT's loss against its definition, sample by sample; its network; DCF; a run from fit to test."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from datamodules import Photos
from datamodules.batch import VideoBatch
from ssl_lightning.__main__ import main
from ssl_lightning.backbones import build
from ssl_lightning.backbones.dcfnet import LocalResponseNorm
from ssl_lightning.methods import DCF, UDT
from ssl_lightning.methods.cycle_consistency.udt import cost_sensitive
from tests.methods.tiny import data, make, trainer

# ---- weights


def test_the_largest_errors_have_no_weight_and_the_others_their_motion():
    errors = torch.tensor([1.0, 9.0, 2.0, 3.0, 8.0])
    motion = torch.tensor([1.0, 5.0, 2.0, 3.0, 7.0])
    weights = cost_sensitive(errors, motion, drop=0.4)  # of 5, 3 are kept
    assert weights.tolist() == pytest.approx([5 / 6, 0, 10 / 6, 15 / 6, 0])
    assert weights.mean() == pytest.approx(1)
    assert cost_sensitive(errors, torch.ones(5), 0).tolist() == [1] * 5


def test_a_batch_that_stands_still_has_no_weight_and_no_nan():
    assert cost_sensitive(torch.rand(4), torch.zeros(4), 0.1).tolist() == [0] * 4


# ---- the loss


def dft(x):
    return np.fft.fft2(x, axes=(-2, -1))


def answer(z, x, y, reg):
    """One sample in float64: (C, H, W), (C, H, W), (H, W)."""
    zf, xf, n = dft(z), dft(x), z.size
    kzz = (np.abs(zf) ** 2).sum(0) / n
    kxz = (xf * zf.conj()).sum(0) / n
    return np.fft.ifft2(dft(y) / (kzz + reg) * kxz).real


def label(shape, sigma, row, column):
    out = np.zeros(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            di = min((i - row) % shape[0], (row - i) % shape[0])
            dj = min((j - column) % shape[1], (column - j) % shape[1])
            out[i, j] = np.exp(-(di**2 + dj**2) / (2 * sigma**2))
    return out


def expected(model, frames):
    """The loss of frames (B, F, 3, S, S), written from the paper and the authors' code."""
    count = frames.shape[1]
    with torch.no_grad():
        maps = torch.stack([model.inner_maps(frames[:, f]) for f in range(count)], 1).double().numpy()
    shape, sigma, n = maps.shape[-2:], model.label_sigma, len(maps)
    y = label(shape, sigma, 0, 0)
    answers, labels = [[y] * n], [[y] * n]
    for f in range(1, count):
        answers.append([answer(maps[b, f - 1], maps[b, f], labels[-1][b], model.reg) for b in range(n)])
        labels.append([label(shape, sigma, *np.unravel_index(r.argmax(), shape)) for r in answers[-1]])
    total = 0.0
    for end in model.ends:
        back = [answer(maps[b, end], maps[b, 0], labels[end][b], model.reg) for b in range(n)]
        errors = np.array([((r - y) ** 2).sum() for r in back])
        motion = np.array([sum(((answers[f][b] - answers[f + 1][b]) ** 2).sum() for f in range(end)) for b in range(n)])
        kept = np.argsort(errors)[: round((1 - model.drop) * n)]
        weights = np.zeros(n)
        weights[kept] = motion[kept]
        weights *= n / weights.sum()
        total += np.mean([w * (np.exp(y) * (r - y) ** 2).sum() for w, r in zip(weights, back, strict=True)])
    return total


def batch_of(frames):
    return VideoBatch(frames, torch.zeros(*frames.shape[:2], 4), torch.arange(len(frames)))


@pytest.mark.parametrize(
    "form",
    [{"frames": 2}, {"frames": 3}, {"frames": 4, "multi_trajectory": True}],
    ids=["basic", "udt", "ludt"],
)
def test_the_loss_is_the_paper_s(form):
    model = make(UDT, **{"multi_trajectory": False, "drop": 0.25, **form})
    frames = torch.rand(8, model.frames, 3, 16, 16)
    result = model.training_step(batch_of(frames), 0)
    assert result["loss"].item() == pytest.approx(expected(model, frames), rel=1e-4)


def test_only_the_template_and_the_last_frame_have_a_gradient():
    model = make(UDT, frames=3, multi_trajectory=False)
    frames = torch.rand(8, 3, 3, 16, 16, requires_grad=True)
    model.training_step(batch_of(frames), 0)["loss"].backward()
    moved = frames.grad.abs().sum((0, 2, 3, 4))
    assert moved[0] > 0
    assert moved[1] == 0
    assert moved[2] > 0


def test_frames_that_only_slide_give_no_error():
    """As tested without margin, where features slide as pictures do."""
    model = make(UDT, frames=3, multi_trajectory=False, margin=0, reg=1e-8)
    for conv in (model.backbone.net.layers[0], model.backbone.net.layers[2]):
        conv.padding_mode, conv._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
    t = torch.rand(4, 3, 16, 16)
    frames = torch.stack([t, t.roll((2, -3), (2, 3)), t.roll((-4, 1), (2, 3))], 1)
    slid = model.training_step(batch_of(frames), 0)["cycle_error"]
    other = model.training_step(batch_of(torch.rand(4, 3, 3, 16, 16)), 0)["cycle_error"]
    assert slid < 1e-3 * other


def test_arguments_out_of_range_are_refused():
    for wrong in ({"frames": 1}, {"drop": 1.0}, {"padding": 0.0}, {"reg": 0.0}, {"margin": 8}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make(UDT, **wrong)
    with pytest.raises(ValueError, match=r"tracker: .*'scale'"):
        make(UDT, tracker={"scale": 3})


# ---- the network


def test_local_response_norm_is_torch_s():
    x = torch.randn(2, 7, 5, 6) * 100
    torch.testing.assert_close(LocalResponseNorm(7)(x), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1)(x))


def test_the_network_has_the_paper_s_weights_and_sees_pixels_less_their_mean():
    backbone = build("dcfnet", image_size=125)
    assert sum(p.numel() for p in backbone.parameters()) == 10_144
    x = torch.rand(1, 3, 16, 16)
    seen = make(UDT).backbone.normalise(x)
    torch.testing.assert_close(seen, x * 255 - torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1))


def test_without_the_margin_the_map_is_that_of_convolutions_without_padding():
    model = make(UDT)
    first, _, second, norm = model.backbone.net.layers
    x = torch.rand(2, 3, 16, 16)
    h = F.relu(F.conv2d(model.backbone.normalise(x), first.weight, first.bias))
    torch.testing.assert_close(model.inner_maps(x), norm(F.conv2d(h, second.weight, second.bias)))
    assert model.inner_maps(x).shape == (2, 4, 12, 12)


def test_any_backbone_with_a_map_tracks(tmp_path):
    model = make(UDT, backbone="convnet", margin=0, image_size=32, feature_layer=None)
    trainer(tmp_path, max_steps=1).fit(model, data(UDT, image_size=32))


# ---- DCF


def test_the_yardstick_s_label_is_where_the_target_is():
    model = make(DCF)
    frames = torch.rand(3, 2, 3, 16, 16)
    box = torch.tensor([[[5.0, 5, 6, 6], [7, 4, 6, 6]], [[5, 5, 6, 6], [5, 5, 6, 6]], [[5, 5, 6, 6], [40, 5, 6, 6]]])
    loss = model.training_step(VideoBatch(frames, box, torch.arange(3)), 0)
    y = label((12, 12), model.label_sigma, 0, 0)
    with torch.no_grad():
        maps = torch.stack([model.inner_maps(frames[:, f]) for f in range(2)], 1).double().numpy()
    errors = []
    for b, (row, column) in enumerate([(-1, 2), (0, 0)]):  # the third target has left the window
        found = answer(maps[b, 0], maps[b, 1], y, model.reg)
        errors.append(((found - label((12, 12), model.label_sigma, row, column)) ** 2).sum())
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-4)


# ---- runs


def test_wrong_pairings_are_told(tmp_path):
    with pytest.raises(ValueError, match="UDT learns from videos, and Photos has images: take MovingDigits"):
        trainer(tmp_path, max_steps=1).fit(make(UDT), Photos(image_size=16))


RUN = (
    "fit --model UDT --data MovingDigits --data.image_size 16 --data.train_videos 2 --data.val_videos 1 "
    "--data.test_videos 2 --data.length 12 --data.batch_size 8 --trainer.accelerator cpu "
    "--trainer.enable_progress_bar false --run udt --trainer.max_epochs 1 --trainer.log_every_n_steps 1"
)


def test_a_run_is_tested_and_tracks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([*RUN.split(), "--model.backbone_args", '{"width": 4}'])
    logged = [json.loads(line) for line in Path("udt/metrics.jsonl").read_text().splitlines()]
    assert {"val/pairs_k1", "val/pairs_k10", "train/cycle_error"} <= {key for line in logged for key in line}
    main("test --run udt --ckpt_path last --trainer.accelerator cpu --trainer.enable_progress_bar false".split())
    results = json.loads(Path("udt/results.json").read_text())
    assert 0 < results["metrics"]["test/ope_success_auc"] <= 20 / 21
    assert results["protocols"]["test/ope_precision_20"].startswith("ope-v1: 2 videos")
    assert Path("udt/pictures/tracking-test.png").is_file()

    folder = Path("walk")
    folder.mkdir()
    for i in range(3):
        blocks = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        texture = np.array(Image.fromarray(blocks).resize((60, 40), Image.Resampling.BILINEAR))
        Image.fromarray(np.roll(texture, 2 * i, 1)).save(folder / f"{i}.png")
    capsys.readouterr()
    main("track --run udt --ckpt_path last --video walk --box 21,11,16,16".split())
    out = capsys.readouterr().out
    assert "3 frames" in out
    lines = Path("track/boxes.txt").read_text().splitlines()
    assert lines[0] == "21.00,11.00,16.00,16.00"
    assert abs(float(lines[2].split(",")[0]) - 25) <= 3
    assert Path("track/track.png").stat().st_size > 5000
