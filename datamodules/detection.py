"""Detection data: images with the boxes of the objects in them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from datamodules.batch import DetectionBatch
from datamodules.data import Data
from datamodules.draws import uniform
from datamodules.loader import EpochBatches, Loader, TrainLoader

_DRAWS = 0x666C6970  # "flip": keeps the draws apart from others


@runtime_checkable
class DetectsObjects(Protocol):
    """A method that learns from boxes."""

    def detect(self, image: Tensor) -> list[dict[str, Tensor]]:
        """Images (B, C, S, S) float in [0, 1] -> of each the ``boxes`` (n, 4) in pixels, x1, y1, x2, y2, their
        ``labels`` (n,) int64 and ``scores`` (n,) in [0, 1], the highest first."""


class Objects(NamedTuple):
    """The n objects of an image, see DetectionBatch.

    Args:
        box: (n, 4) float32.
        label: (n,) int64.
        ignored: (n,) bool.
    """

    box: Tensor
    label: Tensor
    ignored: Tensor


class BoxedImages(Dataset[DetectionBatch], ABC):
    """A set of images with boxes: `images[[i, j]]` is the batch of the two.

    Args:
        objects: Of each image.
    """

    def __init__(self, objects: list[Objects]) -> None:
        self.objects = objects

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are spawned: a tensor would take a file descriptor."""
        return {**self.__dict__, "objects": [[column.numpy() for column in one] for one in self.objects]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        objects = [Objects(*map(torch.from_numpy, one)) for one in state["objects"]]
        self.__dict__.update({**state, "objects": objects})

    @abstractmethod
    def image(self, i: int) -> Tensor:
        """(C, S, S) uint8."""

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, rows: Sequence[int]) -> DetectionBatch:
        if not rows:  # of a process that has none of few images
            return DetectionBatch(*(column[:0] for column in self[[0]]))
        image = torch.stack([self.image(i) for i in rows])
        objects = [self.objects[i] for i in rows]
        return DetectionBatch(
            image,
            pad_sequence([o.box for o in objects], batch_first=True),
            pad_sequence([o.label for o in objects], batch_first=True, padding_value=-1),
            pad_sequence([o.ignored for o in objects], batch_first=True),
            torch.tensor(rows, dtype=torch.int64),
        )


class BoxedArray(BoxedImages):
    """Images in memory.

    Args:
        images: (N, C, S, S) uint8.
        objects: Of each image.
    """

    def __init__(self, images: Tensor, objects: list[Objects]) -> None:
        super().__init__(objects)
        self.images = images

    def image(self, i: int) -> Tensor:
        return self.images[i]


class Parts(NamedTuple):
    """The parts of a data set.

    Args:
        train: The images to learn from.
        val: Images for scores while training; None if there are none.
        test: Images for the scores at the end; None if there are none.
    """

    train: BoxedImages
    val: BoxedImages | None
    test: BoxedImages | None


class DetectionData(Data):
    """Images with boxes, for methods that learn to detect. A data set is a subclass that says in `parts` what its parts
    are. Batches are `DetectionBatch`; validation and test have one loader, of the held-out images.

    Args:
        class_names: Names of the classes.
        image_size: Side S of the images in pixels.
        in_channels: Colour channels of an image.
        flip: Share of the training images that are mirrored, left to right, with their boxes: drawn by (seed, epoch,
            image).
        batch_size: Images in a batch of one process.
        num_workers: Processes per loader that read images; 0 reads in the training process.
        seed: Decides order and draws; by default the seed of the run (--seed_everything).

    Raises:
        ValueError: a number is out of range.
    """

    unit: ClassVar[str] = "images"

    def __init__(
        self,
        class_names: list[str],
        image_size: int,
        in_channels: int = 3,
        flip: float = 0.5,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(class_names, batch_size, num_workers, seed)
        if not 0 <= flip <= 1:
            raise ValueError(f"flip must lie in [0, 1], got {flip}")
        self.image_size, self.in_channels, self.flip = image_size, in_channels, flip
        self._at_least(image_size=8)
        self._parts: Parts | None = None

    @property
    def shape(self) -> str:
        return f"{self.in_channels} x {self.image_size} x {self.image_size}"

    @abstractmethod
    def parts(self) -> Parts:
        """The parts of the data set, called once per process after `prepare_data`."""

    def setup(self, stage: str) -> None:
        """
        Raises:
            ValueError: the method does not learn from boxes.
        """
        model = None if self.trainer is None else self.trainer.lightning_module
        if model is not None and not isinstance(model, DetectsObjects):
            raise ValueError(
                f"{type(self).__name__} has images with boxes, which {type(model).__name__} does not learn from: take "
                "DetectionTransfer, or other data"
            )
        if self._parts is None:
            self._parts = self.parts()
        super().setup(stage)
        if (self._parts.test if stage == "test" else self._parts.val) is None:
            self._switch_off_evaluation(stage)

    def _ready(self) -> Parts:
        if self._parts is None:
            raise ValueError("the data are not set up: call prepare_data() and setup(stage) first")
        return self._parts

    def train_dataloader(self) -> TrainLoader:
        images = self._ready().train
        return self._training(images, EpochBatches(len(images), self.batch_size, self.seed))

    def val_dataloader(self) -> Loader | list[Loader]:
        """The validation images; [] if there are none."""
        return self._held_out("val", self._ready().val)

    def test_dataloader(self) -> Loader | list[Loader]:
        """The test images; [] if there are none."""
        return self._held_out("test", self._ready().test)

    def _held_out(self, role: str, images: BoxedImages | None) -> Loader | list[Loader]:
        return [] if images is None else self._evaluation(role, images)

    def transfer_batch_to_device(
        self, batch: DetectionBatch, device: torch.device, dataloader_idx: int
    ) -> DetectionBatch:
        image, box, label, ignored, index = batch
        image, box, label, ignored = (t.to(device, non_blocking=True) for t in (image, box, label, ignored))
        return DetectionBatch(image, box, label, ignored, index)

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: DetectionBatch, dataloader_idx: int) -> DetectionBatch:
        assert self.trainer is not None
        if self.trainer.training and self.flip:
            draws = uniform(batch.index, 1, self.seed, self.trainer.current_epoch, _DRAWS)[:, 0]
            batch = mirrored(batch, (draws < self.flip).to(batch.image.device, non_blocking=True))
        # Lightning converts a batch to the precision of "bf16-true" and "64-true" before this hook
        return batch._replace(image=self.trainer.precision_plugin.convert_input(batch.image.float() / 255))


def mirrored(batch: DetectionBatch, rows: Tensor) -> DetectionBatch:
    """The batch, some of its images mirrored left to right with their boxes.

    Args:
        batch: B images.
        rows: (B,) bool, which.
    """
    x1, y1, x2, y2 = batch.box.unbind(2)
    size = batch.image.shape[3]
    there = rows[:, None, None] & (batch.label >= 0)[:, :, None]
    box = torch.where(there, torch.stack([size - x2, y1, size - x1, y2], 2), batch.box)
    return batch._replace(image=torch.where(rows[:, None, None, None], batch.image.flip(3), batch.image), box=box)
