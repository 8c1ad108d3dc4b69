"""Video data: windows of a few frames to learn from, whole annotated sequences to track in."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batch import SequenceBatch, VideoBatch
from datamodules.boxes import windows
from datamodules.data import Data
from datamodules.draws import uniform
from datamodules.loader import EpochBatches, EvalBatches, Loader, TrainLoader
from datamodules.video import Video, find_videos

Boxes = Literal["random", "centre", "entropy", "annotated"]
_DRAWS = 0x766964656F  # "video": keeps the draws apart from those of views


class Crops(NamedTuple):
    """What a method learns from.

    Args:
        frames: F, the template and those that are searched.
        padding: A window is 1 + padding times as wide and as high as the box.
        boxes: Where they lie in the template's frame.
    """

    frames: int = 3
    padding: float = 2.0
    boxes: Boxes = "random"


@runtime_checkable
class ProposesCrops(Protocol):
    """A method that learns from videos."""

    def default_crops(self) -> Crops:
        """What it learns from where the data are told nothing else."""


class Videos(NamedTuple):
    """The parts of a data set.

    Args:
        train: The videos to learn from.
        val: Annotated videos, for scores while training; empty if there are none.
        test: Annotated videos, for the scores at the end; empty if there are none.
    """

    train: list[Video]
    val: list[Video]
    test: list[Video]


class Windows(Dataset[VideoBatch]):
    """Windows of a few frames: `windows[[epoch, i, j]]` is the batch of the samples i and j.

    A sample is a frame of a video, the template; the last frame of a video is none. The others are drawn each for
    itself from the `max_gap` frames after it. All draws are a function of (seed, epoch, sample).

    Args:
        videos: The videos.
        crops: What the method learns from.
        image_size: Side S of the windows in pixels.
        max_gap: Most frames between the template and another one.
        box_sizes: Least and greatest side of random boxes, as shares of the frame's shorter side.
        seed: Together with the epoch decides the draws.

    Raises:
        ValueError: annotated boxes are asked for, and a video has none.
    """

    def __init__(
        self,
        videos: list[Video],
        crops: Crops,
        image_size: int,
        max_gap: int,
        box_sizes: tuple[float, float],
        seed: int,
    ) -> None:
        self.videos, self.crops, self.image_size = videos, crops, image_size
        self.max_gap, self.box_sizes, self.seed = max_gap, box_sizes, seed
        self.places: list[tuple[int, int]] = []  # video, frame
        for number, video in enumerate(videos):
            if crops.boxes == "annotated" and video.boxes is None:
                raise ValueError(f"sequence {video.name} is not annotated, and the boxes are to be the annotated ones")
            templates = range(len(video) - 1)
            if crops.boxes == "annotated":
                assert video.boxes is not None
                templates = [i for i in templates if not video.boxes[i].isnan().any()]  # type: ignore[assignment]
            self.places += [(number, i) for i in templates]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: list[int]) -> VideoBatch:
        epoch, index = rows[0], torch.tensor(rows[1:], dtype=torch.int64)
        draws = uniform(index, 3 + self.crops.frames - 1, self.seed, epoch, _DRAWS)
        samples = [self.sample(i, draw) for i, draw in zip(rows[1:], draws, strict=True)]
        frames, boxes = zip(*samples, strict=True)
        return VideoBatch(torch.stack(frames), torch.stack(boxes), index)

    def sample(self, i: int, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (F, 3, S, S) uint8 and boxes (F, 4)."""
        number, t = self.places[i]
        video = self.videos[number]
        gaps = 1 + (draws[3:] * self.max_gap).long()
        times = [t, *(t + gaps).clamp(max=len(video) - 1).tolist()]
        frame = video.frame(t)
        x, y, w, h = self.box(video, t, frame, draws[:3].tolist())
        centre, side = torch.tensor([x + w / 2, y + h / 2]), torch.tensor([w, h]) * (1 + self.crops.padding)
        frames = [frame, *map(video.frame, times[1:])]
        crops = torch.cat([windows(frame, centre, side[None], self.image_size) for frame in frames])
        boxes = torch.zeros(len(times), 4)
        if video.boxes is not None:
            found = video.boxes[times].float()
            scale = self.image_size / side
            corner = (found[:, :2] - (centre - side / 2)) * scale
            boxes = torch.cat([corner, found[:, 2:] * scale], 1).nan_to_num(0.0)
        return crops.round().to(torch.uint8), boxes

    def box(self, video: Video, t: int, frame: Tensor, draws: list[float]) -> tuple[float, float, float, float]:
        """x, y, width, height in the template's frame."""
        height, width = frame.shape[1:]
        kind = self.crops.boxes
        if kind == "annotated":
            assert video.boxes is not None
            x, y, w, h = video.boxes[t].tolist()
            return x, y, w, h
        if kind == "centre":
            return width * 5 / 12, height * 5 / 12, width / 6, height / 6
        if kind == "entropy":
            return richest(frame)
        least, most = self.box_sizes
        side = (least + (most - least) * draws[0]) * min(height, width)
        return draws[1] * (width - side), draws[2] * (height - side), side, side


def richest(frame: Tensor) -> tuple[float, float, float, float]:
    """Of 25 boxes of a sixth of the frame around its middle, the one whose grey levels have the greatest entropy.

    Wang, Zhou, Song, Ma, Liu, Li, Unsupervised Deep Representation Learning for Real-Time Tracking, 2020,
    https://arxiv.org/abs/2007.11984
    """
    height, width = frame.shape[1:]
    grey = frame.float().mean(0).to(torch.uint8).numpy()
    w, h = width / 6, height / 6
    best, found = -1.0, (0.0, 0.0, w, h)
    for row in range(4, 9):
        for column in range(4, 9):
            x, y = width * column / 12 - w / 2, height * row / 12 - h / 2
            part = grey[round(y) : round(y + h), round(x) : round(x + w)]
            share = np.bincount(part.ravel(), minlength=256) / max(1, part.size)
            entropy = float(-(share[share > 0] * np.log(share[share > 0])).sum())
            if entropy > best:
                best, found = entropy, (x, y, w, h)
    return found


class WindowBatches(EpochBatches):
    """The training batches of one process: the epoch's number, then the samples."""

    def __iter__(self) -> Iterator[list[int]]:
        for rows in super().__iter__():
            yield [self.epoch, *rows]


class Sequences(Dataset[SequenceBatch]):
    """Whole videos."""

    def __init__(self, videos: list[Video]) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, rows: list[int]) -> SequenceBatch:
        return SequenceBatch([self.videos[i] for i in rows], rows)


class VideoData(Data):
    """Video for methods that learn to track. A data set is a subclass that says in `videos` what its parts are.

    A training batch holds the same window of a few frames, see `VideoBatch`; how many, how wide and around which boxes
    is proposed by the method. Validation and test have one loader, of the annotated videos (`SequenceBatch`).

    Args:
        image_size: Side of the windows in pixels.
        boxes: Where boxes lie in the template's frame: `random` ones, `centre` (a sixth of the frame), `entropy` (of 25
            boxes around the middle the one with most detail), or `annotated`. None: what the method proposes.
        max_gap: Most frames between the template and another one.
        box_sizes: Least and greatest side of random boxes, as shares of the frame's shorter side.
        unlabelled: Folders with further sequences to learn from, whose boxes are not read.
        batch_size: Windows in a batch of one process.
        num_workers: Processes that cut windows; 0 cuts them in the training process.
        seed: Decides order and draws; by default the seed of the run (--seed_everything).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a number is out of range.
    """

    unit: ClassVar[str] = "videos"

    def __init__(
        self,
        image_size: int = 125,
        boxes: Boxes | None = None,
        max_gap: int = 10,
        box_sizes: tuple[float, float] = (0.15, 0.35),
        unlabelled: list[str] | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__([], batch_size, num_workers, seed)
        if not 0 < box_sizes[0] <= box_sizes[1] <= 1:
            raise ValueError(f"box_sizes must be two shares with 0 < least <= greatest <= 1, got {box_sizes}")
        self.image_size, self.in_channels, self.boxes, self.max_gap = image_size, 3, boxes, max_gap
        self.box_sizes, self.unlabelled = box_sizes, unlabelled or []
        self._at_least(image_size=8, max_gap=1)
        self._crops = Crops(boxes=boxes or "random")
        self._videos: Videos | None = None

    @property
    def shape(self) -> str:
        return f"{self._crops.frames} x 3 x {self.image_size} x {self.image_size}"

    @abstractmethod
    def videos(self) -> Videos:
        """The parts of the data set, called once per process after `prepare_data`."""

    def setup(self, stage: str) -> None:
        """
        Raises:
            ValueError: the method does not learn from videos, or a video is not as VideoFolder says.
        """
        model = None if self.trainer is None else self.trainer.lightning_module
        if model is not None and not isinstance(model, ProposesCrops):
            raise ValueError(
                f"{type(self).__name__} has videos, which {type(model).__name__} does not learn from: take UDT or DCF, "
                "or other data"
            )
        if self._videos is None:
            train, val, test = self.videos()
            more = [video for name in self.unlabelled for video in find_videos(Path(name), annotated=False, keep=True)]
            self._videos = Videos([*train, *more], val, test)
        super().setup(stage)
        if stage == "fit" and model is not None:
            proposed = model.default_crops()
            self._crops = proposed._replace(boxes=self.boxes or proposed.boxes)
        if not (self._ready().test if stage == "test" else self._ready().val):
            self._switch_off_evaluation(stage)

    def _ready(self) -> Videos:
        if self._videos is None:
            raise ValueError("the data are not set up: call prepare_data() and setup(stage) first")
        return self._videos

    def train_dataloader(self) -> TrainLoader:
        dataset = Windows(self._ready().train, self._crops, self.image_size, self.max_gap, self.box_sizes, self.seed)
        return self._training(dataset, WindowBatches(len(dataset), self.batch_size, self.seed))

    def _sequences(self, role: str, videos: list[Video]) -> Loader:
        self._close(role)
        loader = Loader(Sequences(videos), EvalBatches(len(videos), 1))  # frames are read by the one that tracks
        self._loaders[role] = loader
        return loader

    def val_dataloader(self) -> Loader:
        """The annotated validation videos."""
        return self._sequences("val", self._ready().val)

    def test_dataloader(self) -> Loader:
        """The annotated test videos."""
        return self._sequences("test", self._ready().test)

    def transfer_batch_to_device(
        self, batch: VideoBatch | SequenceBatch, device: torch.device, dataloader_idx: int
    ) -> VideoBatch | SequenceBatch:
        if isinstance(batch, SequenceBatch):
            return batch
        frames, box, index = batch
        return VideoBatch(frames.to(device, non_blocking=True), box.to(device, non_blocking=True), index)

    @torch.no_grad()
    def on_after_batch_transfer(
        self, batch: VideoBatch | SequenceBatch, dataloader_idx: int
    ) -> VideoBatch | SequenceBatch:
        if isinstance(batch, SequenceBatch):
            return batch
        assert self.trainer is not None
        # Lightning converts a batch to the precision of "bf16-true" and "64-true" before this hook
        return batch._replace(frames=self.trainer.precision_plugin.convert_input(batch.frames.float() / 255))
