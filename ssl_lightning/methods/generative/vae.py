"""Auto-Encoding Variational Bayes.

Kingma, Welling, 2013. https://arxiv.org/abs/1312.6114
"""

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.pictures import Column
from datamodules.batch import ImageBatch
from datamodules.draws import normal, uniform
from datamodules.views import CropFlipViews
from ssl_lightning.pretext import PretextModule
from ssl_lightning.schedules import LRRule, Schedule

SMALLEST = 7  # most pixels along a side of the decoder's first map
SAMPLES = 3  # columns of samples in a picture
FIRST_SIGMA = 0.25  # about that of the pixels of photographs


def kl_to_standard_normal(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, variance) || N(0, I)) in nats (appendix B): (B, D), (B, D) -> (B,), summed over D."""
    return 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum(1)


class Decoder(nn.Sequential):
    """Transposed convolutions that double a small map until it is the image: (B, dim) -> (B, C, S, S) logits.

    Args:
        dim: Of the code.
        channels: C of the image.
        image_size: S.
        width: Channels of the map before the last layer; each earlier one has twice as many.
    """

    def __init__(self, dim: int, channels: int, image_size: int, width: int) -> None:
        sides = [image_size]
        while sides[-1] > SMALLEST:
            sides.append(sides[-1] // 2)
        sides.reverse()
        widths = [width * 2**k for k in reversed(range(len(sides) - 1))] + [channels]
        first = (widths[0], sides[0], sides[0])
        layers: list[nn.Module] = [nn.Linear(dim, math.prod(first)), nn.Unflatten(1, first)]
        for (n_in, n_out), side in zip(pairwise(widths), sides[1:], strict=True):
            layers.append(nn.ReLU())
            layers.append(nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1, output_padding=side % 2))
        super().__init__(*layers)


class VAE(PretextModule):
    """An encoder tells a normal distribution of codes for each image, a decoder the image from a code drawn of it.

    The loss is the negative evidence lower bound (ELBO) in nats an image: the reconstruction, -log p(x|z) summed over
    the pixels, and the KL divergence of q(z|x) from N(0, I), summed over the code, both meaned over the batch only.
    Logs ``train/reconstruction``, ``train/kl`` and, of the held-out images, the negative ELBO with one sample and
    without ``beta``: ``val/pretext_negative_elbo`` and ``test/pretext_negative_elbo``.

    The features are mu, the mean of q(z|x), never a sample; so is ``feature_layer: head``, and any other layer is one
    of the backbone, whose own last features are those of its last block. ``LinearProbe`` and ``export`` take the
    backbone. Images are not augmented, as in the paper.

    Args:
        latent_dim: Numbers of a code; the paper has 3 to 200 for digits.
        likelihood: ``gaussian``: every channel of a pixel is normal around what the decoder tells, with one standard
            deviation for all, which is learned (Rybkin et al. 2021, https://arxiv.org/abs/2006.13202), so that an ELBO
            may be negative; ``bernoulli``: the cross entropy, for grey images that are nearly black and white.
        beta: Weight of the KL divergence (Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl).
        decoder_width: Channels of the decoder's map before its last layer, doubled for each earlier one.
        optimizer: The paper's is Adagrad.
        lr: For any batch; the paper's has 100 images.
        lr_rule: See SSLModule.
        weight_decay: None.
        schedule: See SSLModule.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: a number out of its range, or an unknown likelihood.
    """

    score_name = "negative_elbo"

    def __init__(
        self,
        latent_dim: int = 128,
        likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
        beta: float = 1.0,
        decoder_width: int = 32,
        optimizer: str = "Adam",
        lr: float = 1e-3,
        lr_rule: LRRule = "none",
        weight_decay: float = 0.0,
        schedule: Schedule = "constant",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            optimizer=optimizer, lr=lr, lr_rule=lr_rule, weight_decay=weight_decay, schedule=schedule, **kwargs
        )
        if latent_dim < 1 or decoder_width < 1:
            raise ValueError(f"latent_dim and decoder_width must be at least 1, got {latent_dim} and {decoder_width}")
        if beta < 0:
            raise ValueError(f"beta must be at least 0, got {beta}")
        if likelihood not in ("gaussian", "bernoulli"):
            raise ValueError(f"likelihood must be gaussian or bernoulli, got {likelihood!r}")
        self.dim, self.likelihood, self.beta = latent_dim, likelihood, beta
        self.head = nn.Linear(self.backbone.dim, latent_dim)  # mu
        self.log_variance = nn.Linear(self.backbone.dim, latent_dim)
        self.decoder = Decoder(latent_dim, self.backbone.in_channels, self.image_size, decoder_width)
        if likelihood == "gaussian":
            self.log_sigma = nn.Parameter(torch.tensor(math.log(FIRST_SIGMA)))
        self.task = f"nats an image, {likelihood}, one sample"

    def default_views(self) -> CropFlipViews:
        return CropFlipViews(padding=0, flip=0)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        return super().forward(x) if self.feature_layers else self.head(self.backbone(x))

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        terms = self.terms(batch.views[0], self.uniform(batch.index, self.dim))
        reconstruction, kl = (term.mean() for term in terms)
        return {"loss": reconstruction + self.beta * kl, "reconstruction": reconstruction, "kl": kl}

    def terms(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """-log p(x|z) and KL(q(z|x) || N(0, I)), each (B,) float32, of images (B, C, S, S), with z drawn by u (B, dim)
        on the CPU."""
        features = self.backbone(x)
        mu, log_variance = self.head(features), self.log_variance(features)
        noise = normal(u).to(x.device, mu.dtype, non_blocking=True)
        z = mu + (0.5 * log_variance).exp() * noise
        return self.reconstruction(x, z), kl_to_standard_normal(mu.float(), log_variance.float())

    def reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x|z) in nats, (B,) float32."""
        x, logits = x.float(), self.decoder(z).float()
        if self.likelihood == "bernoulli":
            nats = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        else:
            log_sigma = self.log_sigma.float()
            nats = 0.5 * ((x - logits.sigmoid()) / log_sigma.exp()).square() + log_sigma + 0.5 * math.log(2 * math.pi)
        return nats.sum((1, 2, 3))

    def scores(self, batch: ImageBatch) -> Tensor:
        reconstruction, kl = self.terms(batch.views[0], uniform(batch.index, self.dim))
        return reconstruction + kl

    def pictures(self, batch: ImageBatch) -> list[Column]:
        """Each image, what the decoder makes of its mu, and what of codes drawn of N(0, I)."""
        x = batch.views[0]
        mu = self.head(self.backbone(x))
        prior = normal(uniform(batch.index, SAMPLES * self.dim, 1)).to(mu).chunk(SAMPLES, dim=1)
        titles = ["told from mu"] + ["from the prior"] * SAMPLES
        told = [self.decoder(z).float().sigmoid() for z in (mu, *prior)]
        return [Column("image", x), *map(Column, titles, told)]
