"""The VAE's loss against torch.distributions in float64, and what its features are."""

import copy
import math

import pytest
import torch
from torch import distributions

from datamodules.batch import ImageBatch
from datamodules.draws import normal, uniform
from ssl_lightning.methods import VAE, LinearProbe
from ssl_lightning.methods.generative.vae import Decoder, kl_to_standard_normal
from tests.methods.tiny import data, make, trainer

PIXELS = 3 * 16 * 16


def batch(n=4, first=0):
    image = torch.rand(100, 3, 16, 16, generator=torch.Generator().manual_seed(1))[first : first + n]
    return ImageBatch((255 * image).byte(), torch.zeros(n, dtype=torch.int64), torch.arange(first, first + n), (image,))


def in_float64(model, x, noise):
    """Reconstruction and KL of every image, from the distributions."""
    features = model.backbone(x)
    posterior = distributions.Normal(model.head(features), (0.5 * model.log_variance(features)).exp())
    logits = model.decoder(posterior.loc + posterior.scale * noise)
    told, kl = [], []
    for i in range(len(x)):
        if model.likelihood == "bernoulli":
            pixels = distributions.Bernoulli(logits=logits[i], validate_args=False)
        else:
            pixels = distributions.Normal(logits[i].sigmoid(), model.log_sigma.exp())
        told.append(-pixels.log_prob(x[i]).sum())
        mine = distributions.Normal(posterior.loc[i], posterior.scale[i])
        kl.append(distributions.kl_divergence(mine, distributions.Normal(0.0, 1.0)).sum())
    return torch.stack(told), torch.stack(kl)


def test_the_divergence_is_torchs():
    mu, log_variance = 3 * torch.randn(5, 7), 2 * torch.randn(5, 7)
    q = distributions.Normal(mu, (0.5 * log_variance).exp())
    expected = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mu, log_variance), expected)
    assert torch.equal(kl_to_standard_normal(torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2))


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_loss_and_gradient_are_those_of_the_distributions_in_float64(likelihood):
    model, images = make(VAE, likelihood=likelihood, beta=0.7), batch()
    model.uniform = uniform
    double = copy.deepcopy(model).double()
    out = model.training_step(images, 0)
    out["loss"].backward()
    told, kl = in_float64(double, images.views[0].double(), normal(uniform(images.index, 6)).double())
    (told.mean() + 0.7 * kl.mean()).backward()
    assert out["reconstruction"].item() == pytest.approx(told.mean().item(), rel=1e-5)
    assert out["kl"].item() == pytest.approx(kl.mean().item(), rel=1e-5)
    assert out["loss"].item() == pytest.approx(told.mean().item() + 0.7 * kl.mean().item(), rel=1e-5)
    expected = dict(double.named_parameters())
    for name, parameter in model.named_parameters():
        scale = expected[name].grad.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(parameter.grad.double(), expected[name].grad, rtol=0, atol=1e-4 * scale, msg=name)
    assert model.scores(images).mean().item() == pytest.approx((told + kl).mean().item(), rel=1e-5)  # without beta


@pytest.mark.parametrize(
    ("likelihood", "x", "expected"),
    [
        ("bernoulli", 0.9, PIXELS * math.log(2)),  # a coin for every pixel, whatever the image
        ("gaussian", 0.5, PIXELS * (math.log(0.25) + 0.5 * math.log(2 * math.pi))),
        ("gaussian", 1.0, PIXELS * (math.log(0.25) + 0.5 * math.log(2 * math.pi) + 2.0)),  # two deviations off
    ],
)
def test_a_model_that_knows_nothing_has_the_elbo_of_a_constant(likelihood, x, expected):
    model = make(VAE, likelihood=likelihood).eval()
    for layer in (model.head, model.log_variance, model.decoder[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    images = batch()._replace(views=(torch.full((4, 3, 16, 16), x),))
    torch.testing.assert_close(model.scores(images), torch.full((4,), expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1, 7, 8, 15, 20, 28, 31, 32, 100])
def test_the_decoder_makes_images_of_any_size_and_uses_every_weight(size):
    decoder = Decoder(5, 2, size, width=4)
    image = decoder(torch.randn(30, 5))
    assert image.shape == (30, 2, size, size)
    image.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_features_are_mu_and_never_a_sample():
    model, x = make(VAE).eval(), batch().views[0]
    mu = model.head(model.backbone(x))
    assert mu.shape == (4, 6)
    assert torch.equal(model(x), mu)
    assert torch.equal(make(VAE, feature_layer="head").eval()(x), mu)
    both = make(VAE, feature_layer=[-1, "head"]).eval()(x)
    assert torch.equal(both["head"], mu)
    torch.testing.assert_close(both["layers.11"], model.backbone(x))


def test_a_probe_reads_the_features_of_the_backbone(tmp_path):
    model = make(VAE)
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, data(VAE))
    probe = LinearProbe(num_classes=2, checkpoint=str(tmp_path / "checkpoints" / "last.ckpt"))
    x = batch().views[0]
    assert probe.classifier[-1].in_features == model.backbone.dim != model.dim
    assert torch.equal(probe(x), model.backbone.eval()(x))


def test_the_noise_of_an_image_does_not_depend_on_the_rest_of_the_batch():
    model = make(VAE).eval()
    torch.testing.assert_close(model.scores(batch(8))[3:6], model.scores(batch(3, first=3)))


def test_training_learns_the_deviation_of_the_pixels(tmp_path):
    model = make(VAE, lr=0.01)
    trainer(tmp_path, max_epochs=1).fit(model, data(VAE))  # 125 steps
    assert model.log_sigma.exp().item() < 0.24


def test_pictures_show_the_image_what_is_told_of_mu_and_samples():
    model, images = make(VAE).eval(), batch()
    columns = model.pictures(images)
    assert [c.title for c in columns] == ["image", "told from mu", *["from the prior"] * 3]
    assert torch.equal(columns[1].images, model.decoder(model(images.views[0])).sigmoid())
    for column in columns:
        assert column.images.shape == (4, 3, 16, 16)
        assert column.images.min() >= 0
        assert column.images.max() <= 1
    again = model.pictures(images._replace(views=(torch.zeros(4, 3, 16, 16),)))
    assert torch.equal(columns[2].images, again[2].images)  # have nothing to do with the image
    assert not torch.equal(columns[2].images, columns[3].images)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"latent_dim": 0}, "latent_dim and decoder_width must be at least 1, got 0 and 4"),
        ({"beta": -1.0}, "beta must be at least 0, got -1"),
        ({"likelihood": "poisson"}, "likelihood must be gaussian or bernoulli, got 'poisson'"),
    ],
)
def test_wrong_numbers(wrong, words):
    with pytest.raises(ValueError, match=words):
        make(VAE, **wrong)
