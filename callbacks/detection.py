"""How well a method detects: COCO's average precision, and pictures of what it finds."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch import distributed as dist
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from callbacks.pictures import HeldOutPictures, save_picture, show
from datamodules.batch import DetectionBatch
from datamodules.detection import DetectsObjects

Boxes = dict[str, Tensor]
KEYS = ("boxes", "labels", "scores")
SCORES = {"val": ("map", "map_50"), "test": ("map", "map_50", "map_75")}


def needs_detection(callback: Callback, pl_module: LightningModule) -> DetectsObjects:
    """
    Raises:
        ValueError: the method does not detect.
    """
    if not isinstance(pl_module, DetectsObjects):
        raise ValueError(f"{type(callback).__name__} needs a method that detects, such as DetectionTransfer")
    return pl_module


def average_precision() -> MeanAveragePrecision:
    """The metric, for one process: what all have found is gathered before.

    Raises:
        ModuleNotFoundError: pycocotools is not installed.
    """
    try:
        return MeanAveragePrecision(sync_on_compute=False)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "average precision needs the package pycocotools: pip install 'ssl-lightning[detection]'"
        ) from error


def truth(batch: DetectionBatch) -> list[Boxes]:
    """The objects of each image of a batch, on the CPU; those ignored are COCO's crowds."""
    found = []
    for box, label, ignored in zip(batch.box.cpu(), batch.label.cpu(), batch.ignored.cpu(), strict=True):
        n = int((label >= 0).sum())
        found.append({"boxes": box[:n].float(), "labels": label[:n], "iscrowd": ignored[:n].long()})
    return found


class DetectionScore(Callback):
    """Logs ``val/map`` and ``val/map_50``, ``test/map``, ``test/map_50`` and ``test/map_75``, of the held-out images of
    all processes: COCO's average precision, the mean over classes and, for ``map``, over the overlaps 0.5, 0.55, ...,
    0.95 from which a box counts as found.

    Raises:
        ModuleNotFoundError: when the run starts, pycocotools is not installed.
        ValueError: when the run starts, the method does not detect.
    """

    def __init__(self) -> None:
        self.rows: dict[int, tuple[Boxes, Boxes]] = {}  # what is found and what is there, by the image's place

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        needs_detection(self, pl_module)
        average_precision()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if len(batch.image):
            found = [{k: v.cpu() for k, v in boxes.items()} for boxes in pl_module.detect(batch.image)]
            self.rows |= zip(batch.index.tolist(), zip(found, truth(batch), strict=True), strict=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows, self.rows = self.rows, {}
        if trainer.sanity_checking:
            return
        if trainer.world_size > 1:
            parts: list[dict[int, tuple[Boxes, Boxes]]] = [{} for _ in range(trainer.world_size)]
            dist.all_gather_object(parts, rows)
            rows = {place: row for part in parts for place, row in part.items()}
        metric = average_precision()
        metric.warn_on_many_detections = False
        metric.update(*map(list, zip(*(rows[place] for place in sorted(rows)), strict=True)))
        stage, scores = "test" if trainer.testing else "val", metric.compute()
        for name in SCORES[stage]:
            if scores[name] >= 0:  # it is -1 where there is nothing to find
                pl_module.log(
                    f"{stage}/{name}",
                    scores[name].to(pl_module.device),
                    prog_bar=name == "map",
                    batch_size=1,
                    add_dataloader_idx=False,
                    sync_dist=True,  # already the same on all
                )

    # the loader and the steps of `test` are of the same kind
    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


class DetectionPictures(HeldOutPictures):
    """Draws held-out images with the boxes found in them, and those that are there in white:
    ``pictures/detections-*.png`` in the run's folder; sent to loggers of pictures: TensorBoard, Weights & Biases,
    MLflow, Comet.

    The images lie at even distances in the held-out images, the same ones every time. A box found is green where it
    overlaps by at least a half with an object of its class that no box of a higher score has found, otherwise red.

    Args:
        every_n_epochs: Epochs between two pictures during ``fit``, 0 for none; ``validate`` and ``test`` always draw.
        rows: Most images shown.
        min_score: Least score of a box that is drawn.

    Raises:
        ValueError: an argument is out of its range; when the run starts, the method does not detect.
    """

    def __init__(self, every_n_epochs: int = 10, rows: int = 12, min_score: float = 0.3) -> None:
        super().__init__(every_n_epochs, rows)
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must lie in [0, 1], got {min_score}")
        self.min_score = min_score

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        needs_detection(self, pl_module)

    def draw(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        found = needs_detection(self, pl_module).detect(batch.image)
        if trainer.is_global_zero:
            shown = [{k: v.cpu()[boxes["scores"].cpu() >= self.min_score] for k, v in boxes.items()} for boxes in found]
            names: list[str] = vars(trainer)["datamodule"].class_names if "datamodule" in vars(trainer) else []
            save_picture(trainer, "detections", draw_boxes(batch.image, shown, truth(batch), names))


def hits(found: Boxes, there: Boxes) -> list[bool]:
    """Whether each box found, in the order of scores, overlaps by a half with an object of its class that none before
    it has been assigned to."""
    free = ~there["iscrowd"].bool()
    right = []
    for box, label in zip(found["boxes"], found["labels"], strict=True):
        overlap = box_iou(box[None], there["boxes"])[0] * (free & (there["labels"] == label))
        right.append(bool((overlap >= 0.5).any()))
        if right[-1]:
            free[overlap.argmax()] = False
    return right


def draw_boxes(images: Tensor, found: list[Boxes], there: list[Boxes], names: list[str]) -> Any:
    """A figure of images (N, C, S, S) with the boxes found in them and those that are there."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(images) :]:
        axes.set_axis_off()

    def draw(axes: Any, box: Tensor, colour: str, width: float) -> None:
        x1, y1, x2, y2 = (box - 0.5).tolist()  # a pixel's middle is a whole number there
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width))

    for axes, image, mine, true in zip(grid, images.cpu(), found, there, strict=False):
        show(axes, image, "black")
        for box, colour, width in ((b, *line) for b in true["boxes"] for line in (("black", 4), ("white", 2.5))):
            draw(axes, box, colour, width)
        for box, label, score, right in zip(*(mine[k] for k in KEYS), hits(mine, true), strict=True):
            colour = "tab:green" if right else "tab:red"
            draw(axes, box, colour, 1.2)
            words = f"{names[label] if names else int(label)} {score:.2f}"
            label_box = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
            x, y = (box[:2] - 0.5).tolist()
            axes.text(
                x, y, words, fontsize=6, color="white", va="bottom", bbox=label_box, clip_on=True, in_layout=False
            )
    return figure
