"""Average precision by hand, over processes, and the pictures of boxes."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from matplotlib.image import imread

from callbacks import DetectionPictures, DetectionScore, ResultsFile
from callbacks.detection import average_precision, hits, truth
from datamodules import DetectionBatch, DetectionDigits
from tests.callbacks.tiny import TWO_PROCESSES, trainer


class Oracle(LightningModule):
    """Knows the boxes of a data set by its images, and shifts those of every third image out of the way."""

    def __init__(self, part):
        super().__init__()
        self.part, self.bare = part, torch.nn.Linear(1, 1)

    def detect(self, image):
        found = []
        for one in image:
            pixels = (one * 255).round().to(torch.uint8)
            (i,) = torch.nonzero((self.part.images == pixels).flatten(1).all(1)).flatten().tolist()
            box = self.part.objects[i].box + (100.0 if i % 3 == 1 else 0.0)
            scores = torch.linspace(0.9, 0.8, len(box))
            found.append({"boxes": box, "labels": self.part.objects[i].label, "scores": scores})
        return found

    def training_step(self, batch, batch_idx):
        return self.bare.weight.sum()

    def validation_step(self, batch, batch_idx):
        pass

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def digits(n=7, **changes):
    return DetectionDigits(**{"train_images": 16, "val_images": n, "test_images": n, "image_size": 32, **changes})


def by_hand(part):
    """COCO's average precision where a box is either the very one or far off: 101 recalls, a class after the other."""
    values = []
    rows = [
        (int(label), score, i % 3 != 1)
        for i, objects in enumerate(part.objects)
        for label, score in zip(objects.label, torch.linspace(0.9, 0.8, len(objects.label)).tolist(), strict=True)
    ]
    for cls in sorted({row[0] for row in rows}):
        mine = sorted((row for row in rows if row[0] == cls), key=lambda row: -row[1])
        right = torch.tensor([row[2] for row in mine]).double().cumsum(0)
        precision = right / torch.arange(1, len(mine) + 1)
        precision = precision.flip(0).cummax(0).values.flip(0)
        recall = right / len(mine)
        at = torch.searchsorted(recall, torch.linspace(0, 1, 101, dtype=torch.float64))
        values.append(torch.cat([precision, torch.zeros(1)])[at].mean().item())
    return sum(values) / len(values)


def test_average_precision_is_that_by_hand_with_its_protocol(tmp_path):
    class Method(Oracle):
        protocols = {"map": "a protocol"}  # noqa: RUF012

    data = digits()
    model = Method(data.parts().test)
    run = trainer(tmp_path, DetectionScore(), ResultsFile())
    run.test(model, data, verbose=False)
    results = json.loads(Path(tmp_path, "results.json").read_text())
    expected = by_hand(model.part)
    assert 0.2 < expected < 0.9
    assert results["metrics"] == pytest.approx({f"test/{n}": expected for n in ("map", "map_50", "map_75")}, abs=1e-6)
    assert results["protocols"] == {"test/map": "a protocol"}


def test_val_logs_two_scores_in_every_epoch_of_fit(tmp_path):
    data = digits()
    run = trainer(tmp_path, DetectionScore(), max_epochs=1)
    run.fit(Oracle(data.parts().val), data)
    scores = {name for name in run.callback_metrics if name.startswith("val/")}
    assert scores == {"val/map", "val/map_50"}


@pytest.mark.parametrize("n", [1, 7])  # one of the processes has no image, or has one more
def test_two_processes_score_as_one(n, tmp_path):
    data = digits(n, batch_size=2)
    scores = []
    for name, settings in {"one": {}, "two": TWO_PROCESSES}.items():
        run = trainer(tmp_path / name, DetectionScore(), ResultsFile(), **settings)
        run.test(Oracle(data.parts().test), digits(n, batch_size=2), verbose=False)
        scores.append(json.loads(Path(tmp_path, name, "results.json").read_text())["metrics"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[0]["test/map"] > 0


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def there(box, label, ignored):
    image = torch.zeros(1, 3, 16, 16)
    batch = DetectionBatch(image, box[None], torch.tensor([label]), torch.tensor([ignored]), torch.arange(1))
    return truth(batch)[0]


def score(found, true):
    metric = average_precision()
    metric.update([found], [true])
    return metric.compute()


def test_an_ignored_object_is_neither_found_nor_missed():
    box = boxes([0, 0, 8, 8], [8, 8, 16, 16], [0, 0, 0, 0])
    both = {"boxes": box[:2], "labels": torch.tensor([3, 3]), "scores": torch.tensor([0.5, 0.9])}
    first = {key: value[:1] for key, value in both.items()}
    ignored = there(box, [3, 3, -1], [False, True, False])
    assert score(both, ignored)["map"] == score(first, ignored)["map"] == 1
    assert score(first, there(box, [3, 3, -1], [False] * 3))["map"] == pytest.approx(51 / 101)
    alone = there(box[:1], [3], [False])
    assert score(both, alone)["map"] == pytest.approx(0.5)


def test_a_box_hits_once_and_its_own_class_only():
    true = there(boxes([0, 0, 8, 8], [8, 8, 16, 16]), [1, 2], [False, False])
    found = {
        "boxes": boxes([0, 0, 8, 6], [0, 0, 8, 8], [8, 8, 16, 16], [8, 8, 12, 12], [9, 8, 16, 16]),
        "labels": torch.tensor([1, 1, 1, 2, 2]),
        "scores": torch.linspace(1, 0, 5),
    }
    assert hits(found, true) == [True, False, False, False, True]


def test_pictures_show_boxes_and_change_nothing(tmp_path):
    data = digits()
    model = Oracle(data.parts().test)
    run = trainer(tmp_path, DetectionPictures(rows=5), DetectionScore())
    run.test(model, data, verbose=False)
    picture = imread(tmp_path / "pictures" / "detections-test.png")
    assert picture.shape[0] > 400
    colours = (picture[:, :, :3] * 255).round().astype(int).reshape(-1, 3)
    assert ((colours == (44, 160, 44)).all(1)).sum() > 50  # green
    assert model.training


@pytest.mark.parametrize("callback", [DetectionScore(), DetectionPictures()])
def test_a_method_that_does_not_detect_is_an_error(callback, tmp_path):
    with pytest.raises(ValueError, match=f"{type(callback).__name__} needs a method that detects"):
        callback.setup(trainer(tmp_path), LightningModule(), "test")


def test_what_is_missing_can_be_installed(monkeypatch, tmp_path):
    monkeypatch.setattr("torchmetrics.detection.mean_ap._PYCOCOTOOLS_AVAILABLE", False)
    monkeypatch.setattr("torchmetrics.detection.mean_ap._FASTER_COCO_EVAL_AVAILABLE", False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ssl-lightning\[detection\]'"):
        DetectionScore().setup(trainer(tmp_path), Oracle(None), "test")


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"min_score must lie in \[0, 1\], got 2"):
        DetectionPictures(min_score=2)
