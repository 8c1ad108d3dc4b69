"""labelled_indices.json beside a run."""

import json

import pytest

from callbacks.knn import KNNMonitor
from callbacks.labelled_indices import LabelledIndices
from callbacks.rank import RankMonitor
from callbacks.results import ResultsFile
from datamodules import Digits
from ssl_lightning.methods import LinearProbe
from tests.methods.tiny import make, trainer

FILE = "labelled_indices.json"


def digits(**changes):
    return Digits(**{"batch_size": 16, "image_size": 16, "labels_per_class": 4, "seed": 1, **changes})


def fit(folder, data, epochs=1, **kwargs):
    run = trainer(folder, LabelledIndices(), max_epochs=epochs)
    run.fit(make(LinearProbe), data, **kwargs)
    return run


def test_a_run_with_few_labels_writes_them_down(tmp_path):
    data = digits()
    fit(tmp_path, data)
    written = json.loads((tmp_path / FILE).read_text())
    assert written == data.labelled_indices()
    assert len(written["indices"]) == 40
    again = digits(labels_per_class=None, label_indices=str(tmp_path / FILE), seed=5)
    fit(tmp_path / "again", again)
    assert json.loads((tmp_path / "again" / FILE).read_text()) == written
    fit(tmp_path / "all", digits(labels_per_class=None))
    assert not (tmp_path / "all" / FILE).exists()


def test_going_on_needs_the_same_images(tmp_path):
    fit(tmp_path, digits())
    last = {"ckpt_path": tmp_path / "checkpoints" / "last.ckpt", "weights_only": True}
    written = (tmp_path / FILE).read_text()
    for other in ({"seed": 2}, {"labels_per_class": 5}, {"labels_per_class": None}):
        with pytest.raises(ValueError, match=r"last\.ckpt has learned from other labelled images"):
            fit(tmp_path / "elsewhere", digits(**other), epochs=2, **last)
    assert not (tmp_path / "elsewhere" / FILE).exists()
    assert (tmp_path / FILE).read_text() == written
    assert fit(tmp_path, digits(), epochs=2, **last).global_step == 4
    (tmp_path / FILE).unlink()
    fit(tmp_path, digits(), epochs=3, **last)
    assert (tmp_path / FILE).read_text() == written
    fit(tmp_path / "all", digits(labels_per_class=None))
    with pytest.raises(ValueError, match="other labelled images"):
        fit(tmp_path / "all", digits(), epochs=2, ckpt_path=tmp_path / "all/checkpoints/last.ckpt", weights_only=True)


def test_a_run_that_begins_anew_replaces_what_a_broken_one_left(tmp_path):
    (tmp_path / FILE).write_text('{"indices": [1]}')
    data = digits()
    fit(tmp_path, data)
    assert json.loads((tmp_path / FILE).read_text()) == data.labelled_indices()
    fit(tmp_path, digits(labels_per_class=None))
    assert not (tmp_path / FILE).exists()


def test_the_protocols_of_a_test_say_how_many_labels_there_were(tmp_path):
    """Of the method's own score those that it has learned from, of the others those of the test."""
    protocols = []
    for learned, tested in ((3, 4), (None, None)):
        model = fit(tmp_path / str(learned), digits(labels_per_class=learned)).lightning_module
        data = digits(labels_per_class=tested)
        trainer(tmp_path, KNNMonitor(k=3), RankMonitor(), ResultsFile()).test(model, data, verbose=False)
        results = json.loads((tmp_path / "results.json").read_text())
        protocols.append(results["protocols"])
        assert results["data"]["init_args"]["labels_per_class"] == data.labels_per_class
        assert results["data"]["init_args"]["label_fraction"] == 1.0
    few, whole = protocols
    assert whole.keys() == {f"test/{name}" for name in ("top1", "knn_top1", "knn_top5", "feature_rank", "feature_std")}
    assert few["test/top1"].endswith(",30 labels")
    assert "labels" not in whole["test/top1"]
    assert {few[f"test/knn_top{k}"] for k in (1, 5)} == {whole["test/knn_top1"] + ",40 labels"}
    again = LinearProbe.load_from_checkpoint(tmp_path / "3" / "checkpoints" / "last.ckpt", weights_only=True)
    assert again.labels == 30


def test_two_processes_draw_the_same(tmp_path):
    data = digits(batch_size=8)
    run = trainer(tmp_path, LabelledIndices(), max_epochs=1, strategy="ddp_fork", devices=2)
    run.fit(make(LinearProbe, norm=False), data)
    alone = digits()
    alone.setup("fit")
    assert json.loads((tmp_path / FILE).read_text()) == alone.labelled_indices()
