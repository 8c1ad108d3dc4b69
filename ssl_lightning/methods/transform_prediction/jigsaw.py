"""Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles.

Mehdi Noroozi, Paolo Favaro, 2016. https://arxiv.org/abs/1603.09246
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.pictures import Column
from datamodules.augment import greyscale, on_drawn
from datamodules.batch import ImageBatch
from datamodules.draws import global_seed, uniform
from datamodules.views import CropFlipViews
from ssl_lightning.pretext import PretextModule
from ssl_lightning.puzzle import cut, lay_out, permutation_set
from ssl_lightning.schedules import Schedule

MEAN, DEVIATION = 0.45, 0.225  # of tiles: about those of photographs in [0, 1], which backbones expect


class Jigsaw(PretextModule):
    """An image is cut into tiles; from the shuffled tiles the network tells by which of P permutations.

    What would solve the puzzle without knowing the object is taken away (section 3.3 of the paper): a gap of random
    width between tiles, against continued edges; every channel of every tile brought to one mean and deviation,
    against continued brightness; some images grey and the channels of the others moved against each other, against
    chromatic aberration. Whole images are cut, for a black border would tell the outer tiles; half of them mirrored,
    which the authors' are not.

    The tower is any backbone that takes images of the tile's size; one pass sees the tiles of all images, so its batch
    norm does too. The paper's: ``backbone="cfn"`` on images of 255 px. On 32 px: tiles of 12 px with ``grid=2``, of
    8 px with ``grid=3``. Logs the share of solved puzzles: ``train/accuracy`` and, of the held-out images, each cut and
    shuffled in one way of its own, ``val/pretext_accuracy`` and ``test/pretext_accuracy``.

    Args:
        grid: Tiles in a row and a column: 3, or 2.
        num_permutations: Number of permutations P; None: 1000, and all 24 of a 2x2 grid. See permutation_set. They are
            drawn by the run's seed and kept in the checkpoint.
        tile_size: Side of a tile in pixels; None: 64 of each 85 px of a cell. A tile lies anywhere in its cell.
        grey: Share of the images that are grey.
        channel_shift: Most pixels by which the channels of a tile move within its cell; None: 2 on tiles of 64 px, in
            proportion on others.
        tile_dim: Width of fc6, which sees a tile: 1024 in the authors' code, 512 in the paper.
        hidden_dim: Width of fc7, which sees all tiles.
        dropout: After fc6 and fc7.
        optimizer: See SSLModule.
        lr: 0.01 for a batch of 256, as all that follows the authors' solver.
        weight_decay: Of weights alone.
        decay_norm_and_bias: See weight_decay.
        schedule: See SSLModule.
        milestones: After 100, 200 and 300 of 350 thousand steps.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: a number out of its range, more permutations than the grid has, tiles larger than their cells, or
            a backbone that cannot take images of the tile's size.
    """

    score_name = "accuracy"
    permutations: Tensor

    def __init__(
        self,
        grid: Literal[2, 3] = 3,
        num_permutations: int | None = None,
        tile_size: int | None = None,
        grey: float = 0.3,
        channel_shift: int | None = None,
        tile_dim: int = 1024,
        hidden_dim: int = 4096,
        dropout: float = 0.5,
        optimizer: str = "SGD",
        lr: float = 0.01,
        weight_decay: float = 5e-4,
        decay_norm_and_bias: bool = False,
        schedule: Schedule = "step",
        milestones: tuple[float, ...] = (2 / 7, 4 / 7, 6 / 7),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            decay_norm_and_bias=decay_norm_and_bias,
            schedule=schedule,
            milestones=milestones,
            **kwargs,
        )
        if grid not in (2, 3):
            raise ValueError(f"grid must be 2 or 3, got {grid}")
        if not 0 <= grey <= 1:
            raise ValueError(f"grey must lie in [0, 1], got {grey}")
        self.grid, self.tiles, self.cell = grid, grid**2, self.image_size // grid
        # of a puzzle: permutation, grey, place of each tile, and of each of its channels
        self.draws = 2 + 2 * self.tiles * (1 + self.backbone.in_channels)
        self.tile_size = round(self.cell * 64 / 85) if tile_size is None else tile_size
        if not 2 <= self.tile_size <= self.cell:
            raise ValueError(
                f"tile_size must be 2 or more and at most {self.cell} px, the side of a cell of a {grid}x{grid} grid "
                f"in images of {self.image_size} px, got {self.tile_size}: set tile_size, or a larger image_size of "
                "the data"
            )
        self.channel_shift = round(self.tile_size / 32) if channel_shift is None else channel_shift
        if self.channel_shift < 0:
            raise ValueError(f"channel_shift must be at least 0, got {channel_shift}")
        self.grey = grey
        self.check_tower()
        count = min(1000, math.factorial(self.tiles)) if num_permutations is None else num_permutations
        self.register_buffer("permutations", permutation_set(self.tiles, count, global_seed()))
        self.fc6 = nn.Sequential(nn.Linear(self.backbone.dim, tile_dim), nn.ReLU(), nn.Dropout(dropout))
        self.fc7 = nn.Sequential(nn.Linear(self.tiles * tile_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout))
        self.fc8 = nn.Linear(hidden_dim, count)
        self.task = f"{count} permutations of {grid}x{grid} tiles of {self.tile_size} px"

    def check_tower(self) -> None:
        """
        Raises:
            ValueError: the backbone does not take tiles.
        """
        size = self.tile_size
        try:
            with torch.no_grad():
                self.backbone.eval()(torch.zeros(1, self.backbone.in_channels, size, size))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"{self.backbone.name} cannot take tiles of {size}x{size} px: {error}; choose another backbone, or a "
                "larger tile_size or image_size"
            ) from error
        self.backbone.train()

    def default_views(self) -> CropFlipViews:
        return CropFlipViews(padding=0)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        tiles, label = self.puzzle(batch.views[0], self.uniform(batch.index, self.draws))
        logits = self.solve(tiles)
        accuracy = (logits.argmax(1) == label).float().mean()
        return {"loss": F.cross_entropy(logits, label), "accuracy": accuracy}

    def scores(self, batch: ImageBatch) -> Tensor:
        tiles, label = self.held_out(batch)
        return (self.solve(tiles).argmax(1) == label).float()

    def held_out(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """As `puzzle`, one for an image, the same in every epoch and run."""
        return self.puzzle(batch.views[0], uniform(batch.index, self.draws))

    def puzzle(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Cuts images (B, C, S, S) into shuffled tiles (B, T, C, s, s), by u (B, draws) on the CPU.

        Tile j of an image was in place permutations[label][j].
        """
        which, grey, place, shift = u.split((1, 1, 2 * self.tiles, 2 * self.tiles * x.shape[1]), dim=1)
        drawn = grey[:, 0] < self.grey
        x = on_drawn(greyscale, x.clone(), drawn)
        shift = shift.masked_fill(drawn[:, None], 0.5)  # the channels of a grey image stay together
        tiles = cut(x, self.places(place, shift), self.tile_size)
        label = (which[:, 0] * len(self.permutations)).long().to(x.device, non_blocking=True)
        image = torch.arange(len(x), device=x.device)[:, None]
        return tiles[image, self.permutations[label]], label

    def places(self, place: Tensor, shift: Tensor) -> Tensor:
        """Where each channel of each tile is cut, inside of its cell: (B, T, C, 2); by a shift of 0.5 none moves."""
        cells = torch.arange(self.tiles)[:, None]
        cells = torch.cat([cells // self.grid, cells % self.grid], dim=1) * self.cell  # (T, 2)
        border = (self.image_size - self.grid * self.cell) // 2
        room, reach = self.cell - self.tile_size, self.channel_shift
        offset = (place.view(-1, self.tiles, 1, 2) * (room + 1)).long()
        moved = (shift.view(len(place), self.tiles, -1, 2) * (2 * reach + 1)).long() - reach
        return border + cells[:, None] + (offset + moved).clamp(0, room)

    def solve(self, tiles: Tensor) -> Tensor:
        """Tiles (B, T, C, s, s) -> float32 logits (B, P)."""
        z = F.instance_norm(tiles.flatten(0, 1))  # (B T, C, s, s) with mean 0 and deviation 1 in each channel of a tile
        z = self.backbone(MEAN + DEVIATION * z)
        return self.fc8(self.fc7(self.fc6(z).view(len(tiles), -1))).float()

    def pictures(self, batch: ImageBatch) -> list[Column]:
        """The puzzle as it is given, as the model puts it together, and as it was."""
        x = batch.views[0]
        tiles, label = self.held_out(batch)
        guess = self.solve(tiles).argmax(1)
        image = torch.arange(len(x), device=x.device)[:, None]
        solved = tiles[image, self.permutations[guess].argsort(1)]
        gap = max(1, self.tile_size // 16)
        return [
            Column("given", lay_out(tiles, gap)),
            Column("solved", lay_out(solved, gap), right=guess == label),
            Column("image", x),
        ]
