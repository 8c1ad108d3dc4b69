"""AET vs. AED: Unsupervised Representation Learning by Auto-Encoding Transformations rather than Data.

Zhang, Qi, Wang, Luo, 2019. https://arxiv.org/abs/1901.04596
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.pictures import Column
from datamodules.batch import ImageBatch
from datamodules.draws import uniform
from ssl_lightning.pretext import PretextModule
from ssl_lightning.schedules import Schedule
from ssl_lightning.warp import Affine, Projective, warp


class AET(PretextModule):
    """Which transformation leads from the image to its warped copy?

    Logs the mean squared error of the held-out images, each warped in one way of its own, as ``val/pretext_mse`` and
    ``test/pretext_mse``. A model that knows nothing of an image has 0.39 for ``affine``, 0.51 for ``projective`` at 32
    px, 1 with ``true_std``. An earlier layer's features are better than the last: ``feature_layer`` chooses (in the
    paper's 4-block network the second block).

    The numbers are the authors' for CIFAR-10 with 1,500 epochs and the backbone nin4. Their code lets the rate fall in
    a line in the last 500 epochs, from 1.6e-4 to 1e-5; here it stays at 1.6e-4.

    Args:
        transformation: ``affine``: angle, shift, scale and shear; ``projective``: the eight coefficients of a
            homography, the authors' better one.
        true_std: For ``projective``: divide each coefficient by its true standard deviation, see warp.Projective.
        optimizer: See SSLModule.
        lr: 0.1 for a batch of 512.
        base_batch_size: 512.
        weight_decay: Of all parameters.
        optimizer_args: None: Nesterov's momentum 0.9 with SGD.
        schedule: See SSLModule.
        milestones: Epochs 240, 480, 640 and 800 of 1,500.
        step_factor: The rate falls to a fifth at each milestone.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: an unknown transformation, or ``true_std`` without coefficients.
    """

    score_name = "mse"

    def __init__(
        self,
        transformation: Literal["affine", "projective"] = "projective",
        true_std: bool = False,
        optimizer: str = "SGD",
        lr: float = 0.1,
        base_batch_size: int = 512,
        weight_decay: float = 5e-4,
        optimizer_args: dict[str, Any] | None = None,
        schedule: Schedule = "step",
        milestones: tuple[float, ...] = (0.16, 0.32, 0.427, 0.533),
        step_factor: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            lr=lr,
            base_batch_size=base_batch_size,
            weight_decay=weight_decay,
            optimizer_args={"nesterov": True} if optimizer_args is None and optimizer == "SGD" else optimizer_args,
            schedule=schedule,
            milestones=milestones,
            step_factor=step_factor,
            **kwargs,
        )
        if transformation not in ("affine", "projective"):
            raise ValueError(f"transformation must be affine or projective, got {transformation!r}")
        if true_std and transformation == "affine":
            raise ValueError("true_std is for projective: the numbers of an affine transformation lie in [-1, 1]")
        self.affine = transformation == "affine"
        self.transformation = Affine(self.image_size) if self.affine else Projective(self.image_size, true_std)
        self.head = nn.Linear(2 * self.backbone.dim, self.transformation.dim)
        nn.init.zeros_(self.head.bias)
        self.task = f"{transformation}, numbers by {'their' if true_std else 'the authors'} deviation"

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        x, warped, t = self.pair(batch, self.uniform(batch.index, self.transformation.draws))
        return F.mse_loss(self.predict(x, warped), t)

    def pair(self, batch: ImageBatch, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The images x (B, C, S, S), t(x), and the numbers of t (B, dim) float32, drawn by u on the CPU."""
        x, t = batch.views[0], self.transformation.draw(u)
        warped = warp(x, self.transformation.matrix(t))
        return x, warped, t.float().to(x.device, non_blocking=True)

    def predict(self, x: Tensor, warped: Tensor) -> Tensor:
        """The numbers (B, dim) float32 of the transformation from x to warped."""
        # two passes: batch norm sees images and warped images apart, as in the authors' code
        features = torch.cat([self.backbone(x), self.backbone(warped)], dim=1)  # (B, 2D)
        numbers = self.head(features).float()
        return numbers.tanh() if self.affine else numbers

    def held_out(self, batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
        """As `pair`, with one transformation for an image, the same in every epoch and run."""
        return self.pair(batch, uniform(batch.index, self.transformation.draws))

    def scores(self, batch: ImageBatch) -> Tensor:
        x, warped, t = self.held_out(batch)
        return (self.predict(x, warped) - t).square().mean(1)

    def pictures(self, batch: ImageBatch) -> list[Column]:
        """Each image, warped by its transformation, and by that which the model takes it for."""
        x, warped, t = self.held_out(batch)
        said = self.predict(x, warped)
        errors = [f"error {error:.2f}" for error in (said - t).square().mean(1).tolist()]
        again = warp(x, self.transformation.matrix(said.double().cpu()))
        return [Column("image", x), Column("warped", warped), Column("as predicted", again, errors)]
