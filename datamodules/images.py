"""Image data for every method: training views made on the device, bank and queries of the evaluations."""

from abc import abstractmethod
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from datamodules.augment import center_crop
from datamodules.batch import ImageBatch
from datamodules.data import Data
from datamodules.few_labels import labelled_rows, record, recorded_rows
from datamodules.loader import EpochBatches, LabelledFirst, Loader, TrainLoader
from datamodules.sets import ImageFiles, Images, Part, WithUnlabelled, balanced_rows, whole
from datamodules.views import Views


class _ProposesViews(Protocol):
    def default_views(self) -> Views: ...


@runtime_checkable
class TakesUnlabelled(Protocol):
    """A model that learns from labelled images, the first of a batch, and from so many others for each of them."""

    unlabelled_ratio: int


class Splits(NamedTuple):
    """The parts of a data set.

    Args:
        train: The training images.
        bank: Labelled training images, which the evaluations learn from; None without labels.
        val: Held-out labelled images to ask about while training; None if there are none.
        test: Held-out labelled images to ask about at the end; None if there are none.
        predict: The images that `predict` describes.
    """

    train: Images
    bank: Images | None
    val: Images | None
    test: Images | None
    predict: Images


class ImageData(Data):
    """Images for representation learning. A data set is a subclass that says in `splits` what its parts are.

    A training batch carries `views`, the augmented views of the images: float32 in [0, 1], drawn on the
    device by (seed, epoch, image), so equal on any number of processes. Every other batch carries one view,
    the image itself, centre-cropped to `image_size`. Validation and test have two loaders, [bank, queries],
    or none where there are no labels. The queries of validation are the test images where a data set has no
    validation images, as in published tables, unless `val_size` is given.

    Args:
        image_size: Side of the views, in pixels.
        in_channels: Colour channels of an image.
        class_names: Names of the classes; empty for unlabelled images.
        batch_size: Images in a batch of one process.
        num_workers: Processes per loader that read images; 0 reads in the training process.
        views: The augmentation; by default what the method proposes.
        val_size: If not 0, this many labelled training images, spread evenly over the classes, are held out
            of training and bank and are the queries of validation (and of test, where a data set has no test
            images).
        label_fraction: Share of the labelled training images whose labels are used, such as 0.01 or 0.1: these
            images, as many of each class as far as there are and one at least, become the training images and the
            bank. Drawn after `val_size` has been held out. 1: all images, unlabelled ones too. A method that learns
            from labelled and unlabelled images, such as FixMatch, learns from the others too, without their labels.
        labels_per_class: In place of the share, so many labelled images of each class.
        label_indices: In place of a draw, those of a file that another run has written: labelled_indices.json in
            its folder.
        seed: Decides order, views, held-out images and labels; by default the seed of the run (--seed_everything).

    Raises:
        ValueError: if a size is out of range, more than one of label_fraction, labels_per_class and label_indices is
            given, or (when the run starts) there are not so many labels.
        FileNotFoundError: (when the run starts) if there is no file `label_indices`.
    """

    unit = "images"

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        class_names: list[str],
        batch_size: int = 256,
        num_workers: int = 0,
        views: Views | None = None,
        val_size: int = 0,
        label_fraction: float = 1.0,
        labels_per_class: int | None = None,
        label_indices: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(class_names, batch_size, num_workers, seed)
        self.image_size, self.in_channels, self.val_size = image_size, in_channels, val_size
        self._at_least(image_size=1, in_channels=1, val_size=0)
        if not 0 < label_fraction <= 1:
            raise ValueError(f"label_fraction must lie in (0, 1], got {label_fraction}")
        if labels_per_class is not None and labels_per_class < 1:
            raise ValueError(f"labels_per_class must be at least 1, got {labels_per_class}")
        self.label_fraction, self.labels_per_class = label_fraction, labels_per_class
        self.label_indices = label_indices
        asked = [f"label_fraction={label_fraction}"] if label_fraction < 1 else []
        asked += [f"labels_per_class={labels_per_class}"] if labels_per_class is not None else []
        asked += [f"label_indices={label_indices}"] if label_indices is not None else []
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} are given: give one of them")
        self._few_labels = "".join(asked)
        self.views = views
        self._training_views = views
        self._splits: Splits | None = None
        self._whole_set = False

    @abstractmethod
    def splits(self) -> Splits:
        """The parts of the data set, called once per process after `prepare_data`."""

    @property
    def shape(self) -> str:
        return f"{self.in_channels} x {self.image_size} x {self.image_size}"

    @property
    def names(self) -> list[str] | None:
        """Names of the images that `predict` describes, such as their paths; None if they have none."""
        return self._ready().predict.names

    def setup(self, stage: str) -> None:
        whole_set = self._unlabelled_ratio() > 0  # else a method learns from the images with labels alone
        if self._splits is None or (stage == "fit" and self._few_labels and whole_set != self._whole_set):
            self._whole_set = whole_set
            splits = self.splits()
            splits = self._hold_out(splits) if self.val_size else splits
            self._splits = self._draw_labels(splits) if self._few_labels else splits
        super().setup(stage)
        if stage == "fit" and self.trainer is not None:
            proposed = cast(_ProposesViews, self.trainer.lightning_module).default_views()
            if self.views is not None and len(self.views) != len(proposed):
                given, wanted = type(self.views).__name__, type(proposed).__name__
                model = type(self.trainer.lightning_module).__name__
                raise ValueError(
                    f"{given} makes {len(self.views)} view(s), but {model} learns from {len(proposed)}, by "
                    f"default those of {wanted}: choose views of that number, or leave --data.views out"
                )
            self._training_views = proposed if self.views is None else self.views
        queries = self._ready().test if stage == "test" else self._ready().val
        if queries is None or self._ready().bank is None:
            self._switch_off_evaluation(stage)

    def _ready(self) -> Splits:
        if self._splits is None:
            raise ValueError("the data are not set up: call prepare_data() and setup(stage) first")
        return self._splits

    def _hold_out(self, splits: Splits) -> Splits:
        train, bank, _, test, predict = splits
        if bank is None:
            raise ValueError(
                f"val_size={self.val_size} needs labelled training images, and there are none: set it to 0"
            )
        held = balanced_rows(bank.labels, self.val_size, self.seed)
        val = Part(bank, held)
        kept = Part(bank, _without(len(bank), held))
        if train is bank:
            train = kept
        elif isinstance(bank, Part) and bank.whole is train:
            train = Part(train, _without(len(train), bank.rows[held]))
        return Splits(train, kept, val, val if test is None else test, predict)

    def _draw_labels(self, splits: Splits) -> Splits:
        bank = splits.bank
        if bank is None or not (labelled := int((bank.labels >= 0).sum())):
            raise ValueError(f"{self._few_labels} needs labelled training images, and there are none: leave it out")
        if self.label_indices is not None:
            rows = recorded_rows(self.label_indices, bank)
        else:
            rows = labelled_rows(bank.labels, self.class_names, self.seed, self.label_fraction, self.labels_per_class)
        few = Part(bank, rows)
        counts = np.bincount(few.labels, minlength=len(self.class_names))
        each = " to ".join(str(n) for n in sorted({counts.min(), counts.max()}))
        rank_zero_info(f"{len(few):,} of {labelled:,} labelled training images are used, {each} of each class")
        return splits._replace(train=splits.train if self._unlabelled_ratio() else few, bank=few)

    def _unlabelled_ratio(self) -> int:
        model = None if self.trainer is None else self.trainer.lightning_module
        return model.unlabelled_ratio if isinstance(model, TakesUnlabelled) else 0

    def _refuse_unlabelled(self) -> None:
        """
        Raises:
            ValueError: the method takes unlabelled images of these data, whose batches have more than images.
        """
        if self._unlabelled_ratio() and self.trainer is not None:
            model = type(self.trainer.lightning_module).__name__
            raise ValueError(f"{model} learns from images alone, and {type(self).__name__} has more: take other data")

    def labelled_indices(self) -> dict[str, Any] | None:
        """Which labelled training images are used, see `few_labels.record`; None where all are."""
        bank = self._ready().bank
        return record(bank) if self._few_labels and bank is not None else None

    def train_dataloader(self) -> TrainLoader:
        """
        Raises:
            ValueError: there are too few images for a batch, or no labelled ones for a method that needs them.
        """
        images, bank, ratio = self._ready().train, self._ready().bank, self._unlabelled_ratio()
        if not ratio:
            return self._training(images, EpochBatches(len(images), self.batch_size, self.seed))
        if bank is None:
            model = type(self.trainer.lightning_module).__name__  # type: ignore[union-attr]
            raise ValueError(f"{model} learns from labelled images too, and there are none: give such data")
        batches = LabelledFirst(len(bank), len(images), self.batch_size, ratio, self.seed)
        return self._training(WithUnlabelled(bank, images), batches)

    def _bank_and(self, role: str, queries: Images | None) -> list[Loader]:
        bank = self._ready().bank
        if bank is None or queries is None:
            return []
        return [self._evaluation(f"{role} bank", bank), self._evaluation(role, queries)]

    def val_dataloader(self) -> list[Loader]:
        """[training images, queries], both without augmentation; [] without labelled held-out images."""
        return self._bank_and("val", self._ready().val)

    def test_dataloader(self) -> list[Loader]:
        """[training images, queries], both without augmentation; [] without labelled held-out images."""
        return self._bank_and("test", self._ready().test)

    def predict_dataloader(self) -> Loader:
        """Every image of the test set, or of the training set if there is no test set, in order."""
        return self._evaluation("predict", self._ready().predict)

    def transfer_batch_to_device(self, batch: ImageBatch, device: torch.device, dataloader_idx: int) -> ImageBatch:
        stays = ("index", "views")  # draws come from the one on the CPU; the others are made on the device
        fields = {name: part for name, part in batch._asdict().items() if name not in stays}
        return batch._replace(**{name: part.to(device, non_blocking=True) for name, part in fields.items()})

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        assert self.trainer is not None
        with torch.autocast(batch.image.device.type, enabled=False):
            views = self._make_views(batch, self.trainer.training, self.trainer.current_epoch)
        # Lightning converts a batch to the precision of "bf16-true" and "64-true" before this hook
        return batch._replace(views=self.trainer.precision_plugin.convert_input(views))

    def _make_views(self, batch: ImageBatch, training: bool, epoch: int) -> tuple[Tensor, ...]:
        if not training:
            return (center_crop(batch.image, self.image_size),)
        assert self._training_views is not None
        return self._training_views(batch.image, batch.index, self.image_size, self.seed, epoch)

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        if self._splits is not None:
            sets = [part for part in self._splits if part is not None]
            for images in {id(images): images for images in map(whole, sets)}.values():
                if isinstance(images, ImageFiles) and images.skip_unreadable:
                    self._report_unreadable(images)

    def _report_unreadable(self, images: ImageFiles) -> None:
        found = images.unreadable.to(torch.float32)
        if self.trainer is not None:
            strategy = self.trainer.strategy
            found = strategy.reduce(found.to(strategy.root_device), reduce_op="sum").cpu()
        rows = torch.nonzero(found).flatten().tolist()
        if rows:
            rank_zero_warn(
                f"{len(rows)} of {len(images)} images could not be read and the next one stood in for each, "
                f"such as for {images.root / images.names[rows[0]]}"
            )


def _without(n: int, rows: np.ndarray) -> np.ndarray:
    return np.setdiff1d(np.arange(n), rows)
