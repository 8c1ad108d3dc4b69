"""Colorization: losses against loops and constants, what the network sees, and the prior of the training set."""

import math

import pytest
import torch
from torch import nn

from callbacks.pictures import DrawsPictures
from datamodules import Digits, Photos
from datamodules.batch import ImageBatch
from ssl_lightning.lab import lab_to_rgb, rgb_to_lab
from ssl_lightning.methods import Colorization
from tests.methods.tiny import data, make, trainer


def every_picture():
    return torch.from_numpy(Photos(image_size=16).splits().train.images).float() / 255


def pictures(n):
    """Some with colour."""
    x = every_picture()[: 2 * n]
    return x[(rgb_to_lab(x)[:, 1:].abs() > 20).flatten(1).any(1)][:n]


def build(**changes):
    if "backbone" in changes:
        changes = {"backbone_args": {}, **changes}
    return make(Colorization, **{"stride": 4, **changes})


def batch(x):
    n = torch.arange(len(x))
    return ImageBatch((255 * x).byte(), torch.zeros_like(n), n, (x,))


def silence(model):
    """The last layer puts out zeros."""
    nn.init.zeros_(model.decoder[-1].weight)
    nn.init.zeros_(model.decoder[-1].bias)
    return model


def counted(model, x):
    """Sets the prior to that of the images, one by one."""
    counts = torch.zeros(261, dtype=torch.int64)
    for image in x:
        ab = model.colours(image[None])
        if (ab.abs() > 5).any():
            for place in ab[0].flatten(1).T:
                counts[(model.bins.centres - place).norm(dim=1).argmin()] += 1
    model.bins.set_counts(counts)
    return model


def test_who_knows_nothing_loses_ln_q():
    x = pictures(64)
    model = build(backbone="convnet", image_size=32, stride=4, decoder_dim=64)
    enlarged = torch.nn.functional.interpolate(x, size=(32, 32), mode="bilinear")
    assert model.training_step(batch(enlarged), 0)["loss"].item() == pytest.approx(math.log(261), rel=0.05)
    model = build()
    assert silence(model).training_step(batch(x), 0)["loss"].item() == pytest.approx(math.log(261), rel=1e-5)
    rebalanced = counted(model, x).training_step(batch(x), 0)["loss"].item()
    mean_weight = (model.bins.weight * model.bins.counts).sum() / model.bins.counts.sum()
    assert 0.5 < mean_weight < 1  # 1 under the smoothed prior, which has less of the common colours
    assert rebalanced == pytest.approx(mean_weight.item() * math.log(261), rel=1e-4)


def test_who_knows_nothing_loses_half_the_square_of_the_colours():
    x = pictures(8)
    model = silence(build(loss="regression"))
    out = model.training_step(batch(x), 0)
    ab = model.colours(x)
    square = sum((a**2 + b**2) for a, b in ab.permute(0, 2, 3, 1).reshape(-1, 2).tolist()) / (8 * 4 * 4)
    assert out["loss"].item() == pytest.approx(square / 110**2 / 2, rel=1e-5)
    distance = sum(math.hypot(a, b) for a, b in ab.permute(0, 2, 3, 1).reshape(-1, 2).tolist()) / (8 * 4 * 4)
    assert out["ab_error"].item() == pytest.approx(distance, rel=1e-5)


def test_the_loss_is_the_paper_s():
    model = counted(build(), pictures(64))
    x = pictures(3)
    x[1] = x[1].mean(0)  # without colour: left out
    logits = torch.randn(3, 261, 4, 4, generator=torch.Generator().manual_seed(0))
    loss = model.rebalanced(logits, model.colours(x))
    centres, weight, total = model.bins.centres.tolist(), model.bins.weight.tolist(), 0.0
    for i in (0, 2):
        lab = rgb_to_lab(x[i : i + 1].double())[0]
        for top in range(4):
            for left in range(4):
                place = lab[1:, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4].mean((1, 2)).tolist()
                near = sorted(range(261), key=lambda q, place=place: math.dist(centres[q], place))[:5]
                z = [math.exp(-(math.dist(centres[q], place) ** 2) / 50) for q in near]
                row = logits[i, :, top, left].double()
                log_z = (row - row.logsumexp(0)).tolist()
                total -= weight[near[0]] * sum(v * log_z[q] for v, q in zip(z, near, strict=True)) / sum(z)
    assert loss.item() == pytest.approx(total / (3 * 4 * 4), rel=1e-4)


def test_the_error_is_that_of_the_annealed_mean():
    model = build().eval()
    x = pictures(4)
    out = model.training_step(batch(x), 0)
    told = model.bins.decode(model.colorize(x), 0.38)
    assert out["ab_error"].item() == pytest.approx((told - model.colours(x)).square().sum(1).sqrt().mean().item())


@pytest.mark.parametrize("loss", ["classification", "regression"])
def test_the_network_sees_lightness_alone(loss):
    model = build(loss=loss).eval()
    lab = rgb_to_lab(pictures(4))
    lab[:, 0] = 40 + lab[:, 0] / 5
    lab[:, 1:] *= 0.2  # what the colours below can show
    x, recoloured = lab_to_rgb(lab), lab_to_rgb(torch.stack([lab[:, 0], lab[:, 2], -lab[:, 1]], dim=1))
    assert (x - recoloured).abs().max() > 0.02
    assert torch.allclose(model(x), model(recoloured), atol=1e-3)
    assert torch.allclose(model.colorize(x), model.colorize(recoloured), atol=1e-2)
    assert not torch.allclose(model(x), model(x.flip(3) * 0.5), atol=1e-3)
    first = next(m for m in model.backbone.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == 1


@pytest.mark.parametrize(
    ("backbone", "size", "stride", "side"),
    [
        ("convnet", 32, None, 16),  # of a map of 2x2
        ("convnet", 32, 4, 8),
        ("convnet", 32, 1, 32),
        ("resnet18", 32, None, 16),
        ("resnet20", 32, 8, 8),  # the map as it is
        ("convnet", 96, None, 24),
        ("vit_tiny_patch16_224", 224, None, 56),
    ],
)
def test_the_output_has_the_wanted_size_on_any_backbone(backbone, size, stride, side):
    model = build(backbone=backbone, image_size=size, stride=stride)
    assert model.size == side
    x = torch.rand(2, 3, size, size)
    assert model.colorize(x).shape == (2, 261, side, side)
    assert model.colours(x).shape == (2, 2, side, side)
    assert model(x).shape == (2, model.backbone.dim)


def test_the_prior_is_counted_when_a_run_starts_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("ssl_lightning.methods.transform_prediction.colorization.COUNTED", 100)  # of 2000
    model = build()
    trainer(tmp_path, max_steps=1).fit(model, data())
    expected = counted(build(), every_picture()[::20])
    assert torch.equal(model.bins.counts, expected.bins.counts)
    assert torch.equal(model.bins.weight, expected.bins.weight)

    last = tmp_path / "checkpoints" / "last.ckpt"
    resumed = build()
    resumed.count_colours = None  # would fail
    trainer(tmp_path, max_steps=2).fit(resumed, data(), ckpt_path=last, weights_only=True)
    assert torch.equal(resumed.bins.counts, model.bins.counts)


def test_default_views_have_no_border_and_no_colours_of_their_own():
    views = build().default_views()
    white = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    assert views(white, torch.arange(64), 32, 0)[0].min() > 0.999
    one = torch.tensor([200, 40, 90], dtype=torch.uint8).view(1, 3, 1, 1).expand(8, 3, 32, 32)
    assert torch.allclose(views(one, torch.arange(8), 32, 0)[0], one / 255, atol=1e-5)


def test_pictures_are_grey_told_and_true():
    model = build().eval()
    assert isinstance(model, DrawsPictures)
    x = pictures(4)
    model.told = lambda output: rgb_to_lab(x)[:, 1:]
    grey, told, true = model.pictures(batch(x))
    assert torch.allclose(told.images, x, atol=1e-3)
    assert torch.equal(true.images, x)
    assert (grey.images.amax(1) - grey.images.amin(1)).max() < 1e-3
    assert torch.allclose(rgb_to_lab(grey.images)[:, 0], rgb_to_lab(x)[:, 0], atol=1e-2)


def test_images_without_colour_are_refused(tmp_path):
    with pytest.raises(ValueError, match="3 channels, and in_channels is 1: choose a data set with colours"):
        build(in_channels=1)
    grey = Digits(image_size=16, batch_size=16)
    with pytest.raises(ValueError, match=r"the training images have no colour: in none of 1437 does a or b exceed 5"):
        trainer(tmp_path, max_steps=1).fit(build(), grey)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "l2"}, "loss must be classification or regression, got 'l2'"),
        ({"uniform_weight": 0}, r"uniform_weight must lie in \(0, 1\], got 0"),
        ({"temperature": 0}, "temperature must be greater than 0, got 0"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"backbone": "convnet", "backbone_args": {}}, "convnet makes a single place of images of 16 px"),
    ],
)
def test_wrong_numbers(changes, message):
    with pytest.raises(ValueError, match=message):
        make(Colorization, **changes)
