"""Runs side by side: never two protocols or data sets in a column, and a page that loads nothing and runs nothing."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev

import pytest

from ssl_lightning.__main__ import main
from ssl_lightning.cli import quiet
from ssl_lightning.compare import charts, page
from ssl_lightning.compare.files import read_all
from ssl_lightning.compare.runs import Run, Score, read
from ssl_lightning.compare.tables import PERCENT, Column, markdown, tables

KNN, KNN5, LINEAR = "knn-v1: k=20", "knn-v1: k=5", "linear-v1: 8 rates"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
HOSTILE = '" onclick="alert(0)" <script>alert(1)</script><img src=\'http://x/y\' onerror="alert(2)">|`a`\n&amp;'


def made_up(folder: Path, metrics=None, protocols=None, model=None, data=None, seed=0, trainer=None, **more) -> Path:
    """A run's folder with a results.json as `test` writes it."""
    metrics = {"test/knn_top1": 0.5} if metrics is None else metrics
    model = {"lr": 0.1, **(model or {})}
    given = {"image_size": 32, "class_names": ["a", "b"], "batch_size": 64, "seed": seed, **(data or {})}
    results = {
        "metrics": metrics,
        "protocols": dict.fromkeys(metrics, KNN) if protocols is None else protocols,
        "model": {"class_path": "ssl_lightning.methods.contrastive.simclr.SimCLR", "init_args": model},
        "data": {"class_path": "datamodules.digits.Digits", "init_args": given},
        "seed": seed,
        "precision": "32-true",
        "config": {"trainer": {"max_epochs": 3, "logger": None, **(trainer or {})}, "knn": {"k": 20}},
        "versions": {"python": "3.11", "torch": "2.11", "timm": None},
        "commit": "0" * 40,
        "time": "2026-01-01T00:00:00+00:00",
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def cells(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text: rows of cells."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|"):
            if not inside:
                found.append([])
            if not line.startswith("|-"):
                found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        inside = line.startswith("|")
    return found


class Reader(HTMLParser):
    """Tags that open, and whether each is closed in turn; the text of the table's cells."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[str]:
        return [words for name, words in self.words if name == tag]


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> list[Path]:
    """Two seeds of a run by the command line, tested."""
    quiet()
    folders = [tmp_path_factory.mktemp("runs") / f"seed{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        fit = "fit --model RotNet --model.backbone convnet --data Digits --data.image_size 16 --data.batch_size 128"
        fit += " --trainer.max_epochs 2 --trainer.log_every_n_steps 1 --trainer.limit_train_batches 3"
        fit += " --linear.epochs 1 --map.points 20 --map.rows 1"
        main(
            [*fit.split(), "--seed_everything", str(seed), "--run", str(folder), "--model.backbone_args", "{width: 4}"]
        )
        main(["test", "--run", str(folder), "--ckpt_path", "last"])
    return folders


def test_real_runs_become_a_row_and_a_page_with_their_curves_and_pictures(real, tmp_path, capsys):
    output = tmp_path / "out"
    main(["compare", *map(str, real), "--output", str(output)])
    printed = capsys.readouterr().out
    assert (output / "compare.md").read_text().strip() in printed
    (heads, row), *others = cells(printed)[:1]
    assert not others
    metrics = [json.loads((folder / "results.json").read_text())["metrics"] for folder in real]
    values = [100 * found["test/linear_top1"] for found in metrics]
    linear = next(place for place, name in enumerate(heads) if name.startswith("linear_top1, % ["))
    assert row[linear] == f"{mean(values):.1f} ± {stdev(values):.1f}"
    assert row[:3] == ["RotNet", "transform prediction", "2"]
    assert row[-1] == "seed0, seed1"
    # every number, as it was measured, beside its protocol
    lines = list(csv.DictReader((output / "compare.csv").read_text().splitlines()))
    results = [json.loads((folder / "results.json").read_text()) for folder in real]
    wanted = {
        (folder.name, name.removeprefix("test/"), value, found["protocols"][name])
        for folder, found in zip(real, results, strict=True)
        for name, value in found["metrics"].items()
    }
    assert {(r["run"], r["score"], float(r["value"]), r["protocol"]) for r in lines} == wanted
    text = (output / "compare.html").read_text()
    found = Reader(text)
    assert not found.open
    assert {"train/loss", "train/lr", "val/knn_top1, %", "val/pretext_accuracy, %"} <= set(found.of("figcaption"))
    names = {path.name for path in (real[0] / "pictures").iterdir()}
    assert names <= set(found.of("figcaption"))
    kinds = {attributes["src"][:22] for tag, attributes in found.tags if tag == "img"}
    assert kinds == {"data:image/png;base64,"}
    assert {row[linear], "seed0", "seed1"} <= {*found.of("td"), *found.of("a")}


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    run = tmp_path / "run"
    made_up(run, {f"test/{HOSTILE}": 0.5, "test/knn_top1": 0.25}, {f"test/{HOSTILE}": HOSTILE}, {HOSTILE: HOSTILE})
    results = json.loads((run / "results.json").read_text())
    results["model"]["class_path"] = HOSTILE
    results |= {"commit": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    results["data"]["class_path"] = HOSTILE
    (run / "results.json").write_text(json.dumps(results))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 0, f"val/{HOSTILE}": 1.0, HOSTILE: 2.0}) + "\n")
    (run / "pictures").mkdir()
    (run / "pictures" / "<b onclick=1>-x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    other = made_up(tmp_path / "<i>other")
    runs, left_out = read_all([run, other])
    text = page.page(runs, [*left_out, HOSTILE])
    found = Reader(text)
    assert not found.open
    ours = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "table", "thead", "tbody"}
    ours |= {"tr", "th", "td", "a", "details", "summary", "span", "i", "ol", "li", "dl", "dt", "dd", "figure", "img"}
    ours |= {"figcaption", "svg", "line", "text", "circle", "polyline"}
    assert {tag for tag, _ in found.tags} <= ours
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action")]
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")
    style = "".join(found.of("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert any("<script>alert(1)" in words for words in found.of("th"))  # shown as it is
    # and in Markdown it stays in its cell
    (heads, *rows), *_ = cells(markdown(runs))
    assert {len(row) for row in rows} == {len(heads)}


def test_two_protocols_of_a_score_never_share_a_column(tmp_path):
    of = {"a": (0.1, KNN), "b": (0.2, KNN5), "c": (0.3, KNN), "d": (0.4, None)}
    for name, (value, protocol) in of.items():
        metrics, ids = {"test/knn_top1": value}, {"test/knn_top1": protocol} if protocol else {}
        made_up(tmp_path / name, metrics, ids, model={"lr": value})
    runs, _ = read_all(tmp_path / name for name in of)
    (table,) = tables(runs)
    assert table.columns == [Column("knn_top1", KNN), Column("knn_top1", KNN5), Column("knn_top1", "")]
    text = markdown(runs)
    ((heads, *rows),) = cells(text)
    assert heads == ["method", "family", "arguments", "knn_top1, % [1]", "knn_top1, % [2]", "knn_top1, % [3]", "runs"]
    assert [row[3:6] for row in rows] == [["10.0", "", ""], ["", "20.0", ""], ["30.0", "", ""], ["", "", "40.0"]]
    assert f"- [1] {KNN}\n- [2] {KNN5}\n- [3] none recorded" in text
    assert "An empty cell: not measured." in text
    assert "nothing says that two numbers compare" in text


def test_two_data_sets_never_share_a_table(tmp_path):
    changes = [{}, {"image_size": 16}, {"class_names": ["a", "c"]}, {"new_argument": 1}]
    for place, change in enumerate(changes):
        made_up(tmp_path / str(place), data=change)
    of_training = {"batch_size": 8, "num_workers": 2, "seed": 7, "flip": 0.0}
    made_up(tmp_path / "4", data=of_training)  # the first one's table
    made_up(tmp_path / "5", seed=1, data={"class_path": 1})
    results = json.loads((tmp_path / "5" / "results.json").read_text())
    results["data"]["class_path"] = "datamodules.Photos"
    (tmp_path / "5" / "results.json").write_text(json.dumps(results))
    runs, _ = read_all(tmp_path / str(place) for place in range(6))
    found = tables(runs)
    assert [[run.name for row in table.rows for run in row.runs] for table in found] == [["0", "4"], *map(list, "1235")]
    assert found[1].data.startswith("Digits, image_size=16")
    assert found[4].data == "Photos"
    assert found[0].rows[1].arguments == "data.batch_size=8"


def test_seeds_are_one_row_and_what_differs_otherwise_is_another(tmp_path):
    ids = {"test/knn_top1": KNN, "test/linear_top1": LINEAR}
    values = [0.5, 0.625, 0.75]
    for seed, value in enumerate(values):
        metrics = {"test/knn_top1": value} | ({"test/linear_top1": value / 2} if seed else {})
        made_up(tmp_path / f"s{seed}", metrics, ids, seed=seed)
    made_up(tmp_path / "again", {"test/knn_top1": 0.25}, ids, seed=1)  # seed 1 once more
    made_up(tmp_path / "lr", {"test/knn_top1": 0.25}, ids, model={"lr": 1.0}, seed=3)
    made_up(tmp_path / "epochs", {"test/knn_top1": 0.25}, ids, seed=3, trainer={"max_epochs": 9})
    for name in ("unseeded", "unseeded2"):
        made_up(tmp_path / name, {"test/knn_top1": 0.25}, ids, seed=None)
    runs, _ = read_all(tmp_path / n for n in ("s0", "s1", "s2", "again", "lr", "epochs", "unseeded", "unseeded2"))
    ((heads, *rows),) = cells(markdown(runs))
    assert heads == ["method", "family", "arguments", "seeds", "knn_top1, % [1]", "linear_top1, % [2]", "runs"]
    base = "lr=0.1, trainer.max_epochs=3"
    knn = f"62.5 ± {stdev([100 * value for value in values]):.1f}"
    linear = f"{mean([31.25, 37.5]):.1f} ± {stdev([31.25, 37.5]):.1f} (2)"
    assert [row[2:] for row in rows] == [
        [base, "3", knn, linear, "s0, s1, s2"],
        [base, "1", "25.0", "", "again"],
        [base, "1", "25.0", "", "unseeded"],
        [base, "1", "25.0", "", "unseeded2"],
        ["lr=1.0, trainer.max_epochs=3", "1", "25.0", "", "lr"],
        ["lr=0.1, trainer.max_epochs=9", "1", "25.0", "", "epochs"],
    ]


def test_seeds_of_several_commits_are_said_to_be(tmp_path):
    for seed, commit in enumerate("aab"):
        made_up(tmp_path / commit / str(seed), seed=seed, commit=commit)
    runs, _ = read_all([tmp_path / "a" / "0", tmp_path / "a" / "1"])
    assert "Of several commits" not in markdown(runs)
    runs, _ = read_all([tmp_path / "a" / "0", tmp_path / "b" / "2"])
    assert "Of several commits or versions, in one row: 0, 2." in markdown(runs)


def test_other_methods_settings_are_no_difference_but_networks_are(tmp_path):
    made_up(tmp_path / "a", model={"backbone": "convnet", "temperature": 0.1})
    made_up(
        tmp_path / "b", model={"backbone": "resnet18", "lr": 7.0, "checkpoint": "/x" * 40 + "/end"}, data={"views": 1}
    )
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    results["model"]["class_path"] = "my_method.Mine"
    results["config"]["data"] = {"class_path": "datamodules.Photos", "init_args": {"batch_size": 64}}
    (tmp_path / "b" / "results.json").write_text(json.dumps(results))
    made_up(tmp_path / "c", model={"backbone": "convnet", "temperature": 0.5})
    runs, _ = read_all(tmp_path / name for name in "abc")
    ((heads, *rows),) = cells(markdown(runs))
    assert heads[:3] == ["method", "family", "arguments"]
    assert [row[:3] for row in rows] == [
        ["SimCLR", "contrastive", "backbone=convnet, temperature=0.1, data=Digits"],
        ["Mine", "", "backbone=resnet18, data=Photos"],
        ["SimCLR", "contrastive", "backbone=convnet, temperature=0.5, data=Digits"],
    ]


def test_layers_are_rows(tmp_path):
    layered = {"test/knn_top1/layer1": 0.25, "test/knn_top1/layer2": 0.5, "test/top1": 0.75, "test/feature_rank": 3.0}
    made_up(tmp_path / "a", layered, {"test/knn_top1/layer1": KNN, "test/knn_top1/layer2": KNN, "test/top1": "own-v1"})
    made_up(tmp_path / "b", {"test/knn_top1": 0.125}, {"test/knn_top1": f"{KNN},layer layer2"}, {"lr": 0.5})
    runs, _ = read_all([tmp_path / "a", tmp_path / "b"])
    ((heads, *rows),) = cells(markdown(runs))
    assert heads == ["method", "family", "layer", "arguments", "knn_top1, % [1]", "top1, % [2]", "runs"]
    assert [[row[2], *row[4:6]] for row in rows] == [
        ["layer1", "25.0", ""],
        ["layer2", "50.0", ""],
        ["last", "", "75.0"],
        ["layer2", "12.5", ""],
    ]
    (table,) = tables(runs)
    assert [column.score for column in table.besides] == ["feature_rank"]


def test_a_score_is_in_percent_where_it_is_a_share(tmp_path):
    shares = ["knn_top1", "knn_5_labels_top5", "token_accuracy", "exact_match", "retrieval_i2t_r10", "pairs_k10"]
    shares += ["ope_precision_20", "linear_top1, from scratch"]
    assert all(PERCENT.search(name) for name in shares)
    assert not any(PERCENT.search(name) for name in ("ope_success_auc", "feature_rank", "loss", "pretext_mse"))
    run = Run("a", "M", "D", (Score("ope_success_auc", 0.61234, "ope-v1"), Score("knn_top1", 0.61234, KNN)))
    ((_, row),) = cells(markdown([run]))
    assert row[1:3] == ["0.6123", "61.2"]


# ---- what can be wrong


def test_what_cannot_be_read_is_left_out_with_the_command_that_writes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_up(Path("good"))
    whole = Path("good", "results.json").read_text()
    bad = {
        "half": whole[: len(whole) // 2],
        "binary": b"\xff\xfe\x00",
        "list": "[1]",
        "deep": "[" * 100_000,
        "foreign": json.dumps({"metrics": {"a": 1}}),
        "words": whole.replace("0.5", '"0.5"'),
        "numbers": whole.replace(f'"{KNN}"', "5"),
        "nothing": json.dumps({**json.loads(whole), "metrics": {}}),
    }
    for name, content in bad.items():
        Path(name).mkdir()
        Path(name, "results.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    Path("not tested").mkdir()
    main(["compare", "good", *bad, "not tested", "good", "good/results.json"])
    out, err = capsys.readouterr()
    ((_, row),) = cells(out)
    assert row[-1] == "good"
    lines = err.splitlines()
    assert len(lines) == len(bad) + 1
    for name, line in zip([*bad, "not tested"], lines, strict=True):
        folder = "'not tested'" if " " in name else name
        assert line.startswith(f"warning: left out {name}: ")
        assert line.endswith(f"; to write it: ssl-lightning test --run {folder} --ckpt_path last")
    said = Reader(Path("compare/compare.html").read_text()).of("p")
    assert [f"warning: l{line[1:]}" for line in said if line.startswith("Left out")] == lines
    for words, message in (
        (["compare", "half", "list"], "there is no run to compare\nhalf: results.json is not whole"),
        (["compare", "good", "runs/*"], "error: there is no runs/*"),
        (["compare"], "RUN; see ssl-lightning compare --help"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_a_folder_that_is_not_compares_own_is_not_written_into(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_up(Path("run"))
    Path("file").write_text("mine")
    Path("notes").mkdir()
    Path("notes", "compare.html").write_text("<p>my page</p>")
    for output in ("file", "notes", "run"):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(SystemExit):
            main(["compare", "run", "--output", output])
        assert f"error: {output} holds something else than a comparison" in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    Path("empty").mkdir()
    for output in ("empty", "a/new/one", "empty"):
        main(["compare", "run", "--output", output])
        assert {path.name for path in Path(output).iterdir()} == {"compare.html", "compare.md", "compare.csv"}
    Path("empty", "mine.txt").write_text("stays")
    made_up(Path("run"), {"test/knn_top1": 0.75})
    main(["compare", "run", "--output", "empty"])  # an earlier comparison is replaced
    assert "75.0" in Path("empty", "compare.md").read_text()
    assert Path("empty", "mine.txt").read_text() == "stays"


def test_runs_of_one_name_are_told_apart_and_a_copied_file_has_its_own(tmp_path):
    folders = [made_up(tmp_path / "x" / "run", seed=0), made_up(tmp_path / "y" / "run", seed=1)]
    shutil.copy(folders[0] / "results.json", tmp_path / "copied.json")
    shutil.copy(folders[0] / "results.json", tmp_path / "x" / "copied.json")
    runs, _ = read_all([*folders, tmp_path / "copied.json", tmp_path / "x" / "copied.json"])
    copies = [str(tmp_path / "copied.json"), str(tmp_path / "x" / "copied.json")]
    assert [run.name for run in runs] == [*map(str, folders), *copies]
    assert runs[2].folder is None
    assert read(folders[1]).seed == 1


# ---- curves and pictures


def test_curves_are_read_by_step_and_the_later_line_counts(tmp_path):
    lines = [
        {"step": 0, "epoch": 0, "train/loss": 9.0},
        {"step": 5, "epoch": 0, "train/loss": 5.0, "val/knn_top1": None},
        {"step": 0, "epoch": 0, "train/loss": 1.0},  # again after a resume
        {"step": None, "train/loss": 3.0},
        ["no", "row"],
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 7, "train/lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert charts.read_curves(tmp_path) == {"train/loss": charts.Curve([(0, 1.0), (5, 5.0)])}
    assert charts.read_curves(tmp_path / "none") == charts.read_curves(None) == {}


def test_a_long_curve_is_drawn_by_means_of_neighbours():
    points = [(x, float(x % 7)) for x in range(1001)]
    drawn = charts.thinned(points)
    assert len(drawn) == 167  # of 6 each
    assert drawn[1] == (mean(range(6, 12)), pytest.approx(mean(x % 7 for x in range(6, 12))))
    assert charts.thinned(points[:200]) == points[:200]
    text = charts.chart("train/loss", [charts.Curve(points)])
    assert len(re.findall(r"points=\"(.+?)\"", text)[0].split()) == 167
    assert "train/loss, means of 6" in text


@pytest.mark.parametrize(
    "values", [[1.0], [0.0, 0.0], [3.0, 3.0], [-1.0, 5.0], [1e-8, 2e-8], [1e30, -1e30], [2.5e-3] * 2]
)
def test_a_chart_has_its_curve_inside_and_round_numbers_at_its_side(values):
    text = charts.chart("loss", [charts.Curve([(10 * x, y) for x, y in enumerate(values)])])
    found = re.findall(r"points=\"(.+?)\"", text) or [",".join(re.findall(r"c[xy]=\"(.+?)\"", text))]
    places = [tuple(map(float, pair.split(","))) for pair in found[0].split()]
    assert len(places) == len(values)
    assert all(46 <= x <= 312 and 8 <= y <= 150 for x, y in places)
    heights = [y for _, y in places]
    assert sorted(range(len(values)), key=lambda i: -heights[i]) == sorted(range(len(values)), key=lambda i: values[i])
    labels = [float(x) for x in re.findall(r"text-anchor=\"end\">([-+.e\d]+)<", text)[:-1]]
    assert 3 <= len(labels) <= 7
    assert labels == sorted(labels)


def test_curves_of_one_score_by_two_measurements_are_two_charts(tmp_path):
    for name, k in (("a", 20), ("b", 5), ("c", 20)):
        made_up(tmp_path / name, model={"lr": name}, config={"knn": {"k": k, "every_n_epochs": 1, "name": None}})
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "val/knn_top1": 0.5, "val/top1": 0.25}\n')
    runs, _ = read_all(tmp_path / name for name in "abc")
    common = page.page(runs, []).split("<h2>Protocols</h2>")[0]
    titles = Reader(common).of("figcaption")
    assert titles == ["val/top1, %", "val/knn_top1, %, k=20", "val/knn_top1, %, k=5"]
    assert len(re.findall("<circle", common)) == 3 + 2 + 1


def test_pictures_are_bounded_and_what_is_left_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PICTURE_BYTES", 100)
    folder = tmp_path / "pictures"
    folder.mkdir()
    start = b"\x89PNG\r\n\x1a\n"
    contents = {"a-val-epoch0001.png": start, "a-val-epoch0003.png": start + b"a", "b.png": start + bytes(200)}
    contents |= {"c.svg": b"<svg onload='alert(1)'/>", "d.jpg": b"\xff\xd8\xff"}
    contents |= {f"e{n}.png": start for n in range(3)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "sub").mkdir()
    shown = page.pictures(tmp_path, 10_000)
    names = [re.findall("<figcaption>(.+)</figcaption>", figure)[0] for figure in shown.figures]
    assert names == ["a-val-epoch0003.png", "d.jpg", "e0.png", "e1.png"]
    assert shown.left_out == ["a-val-epoch0001.png", "b.png", "c.svg", "e2.png"]
    assert shown.size == sum(len(contents[name]) for name in names)
    assert page.pictures(tmp_path, 9).left_out[-4:] == ["d.jpg", "e0.png", "e1.png", "e2.png"]
    made_up(tmp_path)
    text = " ".join(Reader(page.page([read(tmp_path)], [])).of("p"))
    assert "Pictures left out: a-val-epoch0001.png, b.png, c.svg, e2.png." in text
    assert "No metrics.jsonl, no curves." in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_a_browser_shows_the_table(real, tmp_path):
    output = tmp_path / "out"
    main(["compare", *map(str, real), "--output", str(output)])
    picture = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    url = (output / "compare.html").as_uri()

    def browse(*more: str) -> str:
        command = [str(CHROMIUM), *options, "--virtual-time-budget=2000", *more, url]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    shown = Reader(browse("--dump-dom"))
    ((_, row),) = cells((output / "compare.md").read_text())
    assert [words for words in row if words != row[-1]] == shown.of("td")[: len(row) - 1]
    assert len([1 for tag, _ in shown.tags if tag == "table"]) == 5  # rows, runs, other numbers, two of arguments
    browse(f"--screenshot={picture}", "--window-size=800,600")
    assert picture.stat().st_size > 10_000
