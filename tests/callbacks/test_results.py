import json
import re
import subprocess

import pytest

from callbacks.features import feature_scores
from callbacks.knn import KNNMonitor
from callbacks.rank import RankMonitor
from callbacks.results import ResultsFile, atomic_folder, atomic_open, git_commit, table
from tests.callbacks.tiny import TWO_PROCESSES, TinyData, TinyModel, trainer


def test_results_hold_numbers_protocols_and_where_they_come_from(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    scores = (KNNMonitor(k=3), KNNMonitor(k=3, labels_per_class=5), RankMonitor())
    run = trainer(tmp_path, *scores, ResultsFile())
    run.test(TinyModel(dim=6), TinyData(queries=9), verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"]["test/knn_top1"] == pytest.approx(float(run.callback_metrics["test/knn_top1"]))
    assert results["metrics"].keys() == results["protocols"].keys() == set(run.callback_metrics)
    assert results["protocols"]["test/knn_top1"] == "knn-v1: k=3,T=0.07,full bank,eval mode"
    assert results["protocols"]["test/knn_5_labels_top1"] == "knn-v1: k=3,T=0.07,5 labels a class,mean of 1,eval mode"
    assert results["model"] == {"class_path": "tests.callbacks.tiny.TinyModel", "init_args": {"dim": 6}}
    assert results["data"]["init_args"] == {"labelled": True, "batch_size": 8}
    assert results["seed"] == 7
    assert results["checkpoint"] is None
    assert results["versions"]["torch"]
    assert re.fullmatch(r"1 x cpu, \w+, \d+ threads", results["hardware"])
    assert results["time"].endswith("+00:00")
    printed = capsys.readouterr().out
    assert "test/knn_top1" in printed
    assert "knn-v1: k=3,T=0.07,full bank,eval mode" in printed
    assert [s.name for s in feature_scores(run)] == ["knn", "knn_5_labels", "feature"]


def test_layers_have_a_table_and_the_protocol_says_which_layer_was_scored(tmp_path, capsys):
    class Model(TinyModel):
        feature_layers = ("net",)

        @property
        def protocols(self):
            return {"own": "own-v1", "top5": "not logged"}

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            if dataloader_idx == 1:
                self.log("test/own", 0.5, add_dataloader_idx=False)
            features = self(batch.image.float() / 255)
            return features if len(self.feature_layers) == 1 else {"b.9": features, "b.10": features[:, :3]}

    model, data = Model(), TinyData()
    results = {}
    for layers in (["net"], ["b.9", "b.10"]):
        model.feature_layers = layers
        trainer(tmp_path, KNNMonitor(k=3), ResultsFile()).test(model, data, verbose=False)
        results[len(layers)] = json.loads((tmp_path / "results.json").read_text())
    knn = "knn-v1: k=3,T=0.07,full bank,eval mode"
    assert results[1]["protocols"] == {"test/knn_top1": f"{knn},layer net", "test/own": "own-v1"}
    assert results[2]["protocols"] == {"test/knn_top1/b.9": knn, "test/knn_top1/b.10": knn, "test/own": "own-v1"}
    lines = capsys.readouterr().out.splitlines()
    assert f"test/knn_top1   by layer  {knn}" in lines
    values = [results[2]["metrics"][f"test/knn_top1/{layer}"] for layer in ("b.9", "b.10")]
    assert [line.split() for line in lines[-3:]] == [
        ["layer", "test/knn_top1"],
        ["b.9", f"{values[0]:.4g}"],  # as they come, not by the alphabet
        ["b.10", f"{values[1]:.4g}"],
    ]
    assert values[0] == results[1]["metrics"]["test/knn_top1"]


def test_one_process_of_two_writes(tmp_path):
    run = trainer(tmp_path, KNNMonitor(k=3), ResultsFile(), **TWO_PROCESSES)
    run.test(TinyModel(), TinyData(), verbose=False)
    assert json.loads((tmp_path / "results.json").read_text())["metrics"].keys() == {"test/knn_top1"}


def test_nothing_is_written_under_fast_dev_run(tmp_path):
    trainer(tmp_path, ResultsFile(), fast_dev_run=True).test(TinyModel(), TinyData(), verbose=False)
    assert not (tmp_path / "results.json").exists()


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "folder" / "file"
    with atomic_open(path) as file:
        file.write(b"whole")
    with pytest.raises(TypeError), atomic_open(path) as file:
        file.write("text")
    assert path.read_bytes() == b"whole"


def test_the_table_has_columns():
    metrics = {"test/a_top1": 0.5, "test/a_top5": 1.0, "test/loss": 12.25}
    assert table(metrics, {"test/a_top1": "a-v1: x", "test/a_top5": "a-v1: x"}).splitlines() == [
        "score            value  protocol",
        "test/a_top1        0.5  a-v1: x",
        "test/a_top5          1",  # as above
        "test/loss        12.25",
    ]


def test_layers_are_the_rows_of_a_table():
    metrics = {"test/a_top1/one": 0.5, "test/a_top1/two.0": 0.25, "test/b/one": 12.25, "test/b/two.0": 1, "test/c": 3}
    assert table(metrics, {"test/a_top1/one": "a-v1: x"}).splitlines() == [
        "score            value  protocol",
        "test/a_top1   by layer  a-v1: x",
        "test/b        by layer",
        "test/c               3",
        "",
        "layer  test/a_top1  test/b",
        "one            0.5   12.25",
        "two.0         0.25       1",
    ]


def test_the_commit_says_whether_the_folder_is_clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True
        )

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    assert len(git_commit()) == 40
    (tmp_path / "file").write_text("2")
    assert git_commit().endswith("+changes")


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder"
    with pytest.raises(TypeError), atomic_folder(path) as folder:
        (folder / "a").write_text(1)
    assert list(path.parent.iterdir()) == []
    path.mkdir()
    with atomic_folder(path) as folder:
        (folder / "a").write_text("2")
        assert list(path.iterdir()) == []
    assert [p.name for p in path.parent.iterdir()] == ["folder"]
    with pytest.raises(FileExistsError, match="folder exists: give the name of a new folder"), atomic_folder(path):
        pass
    assert (path / "a").read_text() == "2"
