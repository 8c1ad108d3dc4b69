"""How well a method tracks: one-pass evaluation of annotated videos, and the matching of single pairs of frames."""

from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.features import all_gather, is_dry_run
from callbacks.pictures import save_picture
from datamodules.batch import SequenceBatch
from datamodules.video import Video

THRESHOLDS = torch.linspace(0, 1, 21, dtype=torch.float64)  # of the overlap
PIXELS = torch.arange(51, dtype=torch.float64)  # of the distance between centres
NEAR = 20  # px


@runtime_checkable
class TracksTargets(Protocol):
    """What these callbacks need of a method."""

    def track(self, video: Video, box: Tensor) -> tuple[Tensor, float]:
        """Boxes (N, 4) of a video's frames from the first one's, and the seconds it took."""

    def displacements(self, video: Video, first: int, later: list[int]) -> tuple[Tensor, Tensor]:
        """(n, 2) cells by which the target has moved from a frame to later ones, as it seems and as it is."""


def overlaps(boxes: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4), x, y, width and height: (N,) float64."""
    boxes, truth = boxes.double(), truth.double()
    low = torch.maximum(boxes[:, :2], truth[:, :2])
    high = torch.minimum(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    union = boxes[:, 2:].prod(1) + truth[:, 2:].prod(1) - common
    return (common / union).clamp(max=1)  # rounding must not take equal boxes above the last threshold


def distances(boxes: Tensor, truth: Tensor) -> Tensor:
    """Distances of the centres of boxes (N, 4) in pixels: (N,) float64. A centre is x + (w - 1) / 2."""
    boxes, truth = boxes.double(), truth.double()
    centres, true = (b[:, :2] + (b[:, 2:] - 1) / 2 for b in (boxes, truth))
    return (centres - true).norm(dim=1)


def success_curve(boxes: Tensor, truth: Tensor) -> Tensor:
    """(21,) float64: the share of frames whose overlap is above 0, 0.05, ..., 1. Its mean is the success AUC.

    Wu, Lim, Yang, Online Object Tracking: A Benchmark, 2013. Frames without a box (NaN) do not count.
    """
    seen = ~truth.isnan().any(1)
    return (overlaps(boxes[seen], truth[seen])[:, None] > THRESHOLDS).double().mean(0)


def precision_curve(boxes: Tensor, truth: Tensor) -> Tensor:
    """(51,) float64: the share of frames in which the centres are at most 0, 1, ..., 50 px apart; see success_curve."""
    seen = ~truth.isnan().any(1)
    return (distances(boxes[seen], truth[seen])[:, None] <= PIXELS).double().mean(0)


class SequenceScore(Callback, ABC):
    """Measures each annotated video, on the process that has it, and logs means over videos.

    Args:
        every_n_epochs: Epochs between two scores during ``fit``, 0 for none; ``validate`` and ``test`` always score.

    Raises:
        ValueError: when the run starts, the method does not track.
    """

    def __init__(self, every_n_epochs: int) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs must be 0 (never during fit) or more, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs
        self.rows: dict[int, Tensor] = {}
        self.names: dict[int, str] = {}

    @abstractmethod
    def measure(self, pl_module: TracksTargets, video: Video) -> Tensor:
        """(n,) float64 numbers of a video, as many for each."""

    @abstractmethod
    def report(self, trainer: Trainer, rows: Tensor, names: list[str]) -> dict[str, Tensor]:
        """Scores by name, from the numbers (videos, n) of all processes."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, TracksTargets):
            raise ValueError(f"{type(self).__name__} needs a method that tracks, such as UDT: leave it out")

    def is_due(self, trainer: Trainer) -> bool:
        """Whether this evaluation counts."""
        if trainer.sanity_checking or is_dry_run(trainer):
            return False
        n = self.every_n_epochs
        return trainer.state.fn != TrainerFn.FITTING or (n > 0 and (trainer.current_epoch + 1) % n == 0)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows, self.names = {}, {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: SequenceBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.is_due(trainer):
            for place, video in zip(batch.index, batch.videos, strict=True):
                self.rows[place], self.names[place] = self.measure(pl_module, video), video.name

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.is_due(trainer):
            return
        loader: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        loaders = loader if isinstance(loader, list) else [loader]
        videos: list[Video] = loaders[0].dataset.videos
        rows = gathered(self.rows, len(videos), pl_module)
        measured = rows[:, 0].isfinite()  # limit_test_batches may leave some out
        if not measured.any():
            return rank_zero_info(f"{type(self).__name__} is off: no video is long enough for it")
        names = [video.name for video, has in zip(videos, measured.tolist(), strict=True) if has]
        stage = "test" if trainer.testing else "val"
        for name, value in self.report(trainer, rows[measured], names).items():
            pl_module.log(f"{stage}/{name}", value.float(), batch_size=1, add_dataloader_idx=False, sync_dist=True)

    # the loaders and the batches of `test` are of the same kind
    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


def gathered(rows: dict[int, Tensor], n: int, pl_module: LightningModule) -> Tensor:
    """The numbers of n videos from all processes, (n, columns) float64 on the CPU; NaN for those that nobody has."""
    columns = len(next(iter(rows.values()))) if rows else 0
    if pl_module.trainer.world_size > 1:
        columns = int(torch.stack(all_gather(torch.tensor(columns, device=pl_module.device))).max())
    table = torch.full((n, max(1, columns)), torch.nan, dtype=torch.float64)
    for place, row in rows.items():
        table[place] = row
    if pl_module.trainer.world_size > 1:
        parts = torch.stack(all_gather(table.float().to(pl_module.device))).double().cpu()  # some devices lack float64
        table = torch.where(parts.isnan().all(0), torch.nan, parts.nan_to_num(0.0).sum(0))
    return table


class OnePassEvaluation(SequenceScore):
    """Follows the target of every annotated video from its first box to the end, without help. Logs
    ``test/ope_success_auc``, the mean of the success curve, ``test/ope_precision_20``, the share of frames whose centre
    is at most 20 px off, each meaned over videos, and ``test/ope_fps``, frames a second without their reading; draws
    both curves into ``pictures/tracking-test.png``.

    Wu, Lim, Yang, Online Object Tracking: A Benchmark, 2013, https://doi.org/10.1109/CVPR.2013.312

    Args:
        every_n_epochs: Epochs between two scores during ``fit``, 0 for none; ``validate`` and ``test`` always score.

    Raises:
        ValueError: when the run starts, the method does not track.
    """

    def __init__(self, every_n_epochs: int = 0) -> None:
        super().__init__(every_n_epochs)
        self._videos = 0

    @property
    def protocols(self) -> dict[str, str]:
        """What the numbers mean, see ResultsFile."""
        words = f"ope-v1: {self._videos} videos,first frame counts,mean over videos,21 thresholds,20 px"
        return {"ope_success_auc": words, "ope_precision_20": words, "ope_fps": words}

    def measure(self, pl_module: TracksTargets, video: Video) -> Tensor:
        assert video.boxes is not None
        boxes, seconds = pl_module.track(video, video.boxes[0])
        boxes = boxes.cpu()
        speed = torch.tensor([len(video), seconds], dtype=torch.float64)
        return torch.cat([success_curve(boxes, video.boxes), precision_curve(boxes, video.boxes), speed])

    def report(self, trainer: Trainer, rows: Tensor, names: list[str]) -> dict[str, Tensor]:
        self._videos = len(rows)
        success, precision, speed = rows.split([len(THRESHOLDS), len(PIXELS), 2], 1)
        if trainer.is_global_zero:
            save_picture(trainer, "tracking", draw_curves(success, precision, names))
        return {
            "ope_success_auc": success.mean(),
            "ope_precision_20": precision[:, NEAR].mean(),
            "ope_fps": speed[:, 0].sum() / speed[:, 1].sum(),
        }


class FramePairs(SequenceScore):
    """Matches single pairs of frames: a filter is fitted to the box of a frame, and the same place is searched k frames
    later. Logs ``val/pairs_k1``, ``k5``, ``k10``, ``k20``: the share of pairs whose answer is at most 6 cells of the
    window off the true displacement, meaned over videos. Quicker and steadier than a whole pass.

    Args:
        every_n_epochs: Epochs between two scores during ``fit``, 0 for none; ``validate`` and ``test`` always score.
        stride: A template is taken every so many frames.
        gaps: The numbers of frames k.
        radius: Cells.

    Raises:
        ValueError: a number is out of its range; when the run starts, the method does not track.
    """

    def __init__(
        self, every_n_epochs: int = 1, stride: int = 10, gaps: tuple[int, ...] = (1, 5, 10, 20), radius: float = 6
    ) -> None:
        super().__init__(every_n_epochs)
        if stride < 1 or not gaps or min(gaps) < 1 or radius <= 0:
            raise ValueError(f"stride, gaps and radius must be above 0, got {stride}, {gaps} and {radius:g}")
        self.stride, self.gaps, self.radius = stride, tuple(gaps), radius

    @property
    def protocols(self) -> dict[str, str]:
        """What the numbers mean, see ResultsFile."""
        words = f"pairs-v1: within {self.radius:g} cells,a template every {self.stride} frames,mean over videos"
        return {f"pairs_k{k}": words for k in self.gaps}

    def measure(self, pl_module: TracksTargets, video: Video) -> Tensor:
        assert video.boxes is not None
        known = ~video.boxes.isnan().any(1)
        hits: list[list[float]] = [[] for _ in self.gaps]
        for first in range(0, len(video), self.stride):
            pairs = [(hit, first + k) for hit, k in zip(hits, self.gaps, strict=True) if first + k < len(video)]
            pairs = [(hit, later) for hit, later in pairs if known[first] and known[later]]
            if pairs:
                found, true = pl_module.displacements(video, first, [later for _, later in pairs])
                near = ((found - true).norm(dim=1) <= self.radius).double().tolist()
                for (hit, _), value in zip(pairs, near, strict=True):
                    hit.append(value)
        return torch.tensor([sum(of) / len(of) if of else torch.nan for of in hits], dtype=torch.float64)

    def report(self, trainer: Trainer, rows: Tensor, names: list[str]) -> dict[str, Tensor]:
        scores = {f"pairs_k{k}": rows[:, i].nanmean() for i, k in enumerate(self.gaps)}
        return {name: score for name, score in scores.items() if not score.isnan()}


def draw_curves(success: Tensor, precision: Tensor, names: list[str]) -> Any:
    """A figure of the curves (videos, 21) and (videos, 51): a thin line for each video, a thick one for the mean."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    few = len(names) <= 10
    for axes, x, curves in ((left, THRESHOLDS, success), (right, PIXELS, precision)):
        for name, curve in zip(names, curves, strict=True):
            axes.plot(x, curve, linewidth=1, alpha=0.8 if few else 0.25, label=name if few else None)
        axes.plot(x, curves.mean(0), color="black", linewidth=2.5, label="mean")
        axes.set_ylim(0, 1.02)
        axes.set_xlim(float(x[0]), float(x[-1]))
        axes.grid(alpha=0.3)
    left.set(title=f"success, AUC {success.mean():.3f}", xlabel="overlap above", ylabel="share of frames")
    right.set(title=f"precision, {precision[:, NEAR].mean():.3f} at {NEAR} px", xlabel="centre within (px)")
    right.axvline(NEAR, color="grey", linestyle=":")
    right.legend(fontsize=8, loc="lower right")
    return figure
