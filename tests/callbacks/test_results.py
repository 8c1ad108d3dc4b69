import json
import subprocess

import pytest

from callbacks.features import feature_scores
from callbacks.knn import KNNMonitor
from callbacks.rank import RankMonitor
from callbacks.results import ResultsFile, atomic_open, git_commit, table
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
    assert results["time"].endswith("+00:00")
    printed = capsys.readouterr().out
    assert "test/knn_top1" in printed
    assert "knn-v1: k=3,T=0.07,full bank,eval mode" in printed
    assert [s.name for s in feature_scores(run)] == ["knn", "knn_5_labels", "feature"]


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
