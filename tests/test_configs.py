"""Every YAML that is shipped parses, and builds its data and its method."""

import multiprocessing
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules.shards import write_shards
from ssl_lightning.cli import SSLCLI, quiet

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
METHODS = sorted((CONFIGS / "method").glob("*.yaml"))
DATA = sorted((CONFIGS / "data").glob("*.yaml"))
RECIPES = sorted((CONFIGS / "recipe").glob("*cifar*.yaml"))


def untrained(path: Path) -> list[str]:
    """What a method file that wants a checkpoint takes in its place."""
    return ["--model.backbone", "convnet"] if path.stem.endswith("probe") else []


def partner(path: Path) -> list[str]:
    """Data of the kind that a method file is for, or a method for a data file."""
    text = path.stem == "clip"
    if path in METHODS:
        return ["--data", "DigitsText" if text else "Digits"]
    return ["--model", "SimCLR"]


def build(*words: str) -> SSLCLI:
    return SSLCLI(["fit", *words, "--run", "runs/none"])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder with one picture in it, where nothing may be downloaded."""
    quiet()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "pictures" / "0.png")
    for name in ("captions", "other"):
        (tmp_path / f"{name}.csv").write_text("filepath,title\npictures/0.png,a black square\n")
    for name in ("shards", "more"):
        write_shards("captions.csv", tmp_path / name)


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_method_file_composes_with_a_data_file(path):
    name = partner(path)[1]
    data = {"Digits": "digits", "DigitsText": "digits_text"}[name]
    cli = build("-c", str(path), "-c", str(CONFIGS / "data" / f"{data}.yaml"), *untrained(path))
    assert type(cli.model).__name__.lower() == path.stem.replace("_", "")
    assert type(cli.datamodule).__name__ == name


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_data_file_composes_with_a_method_file(path):
    method = str(CONFIGS / "method" / "simclr.yaml")
    cli = build("-c", method, "-c", str(path), "--model.backbone", "convnet")
    assert type(cli.datamodule).__name__.lower() == path.stem.replace("_", "")
    assert cli.model.hparams["image_size"] == cli.datamodule.image_size
    assert cli.model.hparams["in_channels"] == cli.datamodule.in_channels


def test_quickstart_builds():
    cli = build("-c", str(CONFIGS / "quickstart.yaml"))
    assert type(cli.model).__name__ == "MoCo"
    assert cli.datamodule.views.flip == 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_builds_on_its_data_and_on_a_copy_of_them(path):
    cli = build("-c", str(path))
    assert type(cli.datamodule).__name__ == "CIFAR10"
    copy = build("-c", str(path), "--data", "ImageFolder", "--data.root", "pictures", "--data.image_size", "32")
    assert type(copy.datamodule).__name__ == "ImageFolder"
    assert copy.datamodule.batch_size == cli.datamodule.batch_size
    assert type(copy.datamodule.views) is type(cli.datamodule.views)


def gates() -> dict[str, tuple[dict[str, Any], int, int]]:
    """Arguments, batch and steps of the benchmark's runs."""
    names = runpy.run_path(str(ROOT / "benchmarks" / "learn.py"))
    steps = {n: r.epochs * (names["IMAGES"] // r.batch_size) for n, r in names["RECIPES"].items()}
    return {n.lower(): (r.arguments, r.batch_size, steps[n]) for n, r in names["RECIPES"].items()}


@pytest.mark.parametrize("name", ["aet", "colorization", "jigsaw", "rotnet"])
def test_a_recipe_in_minutes_is_that_of_the_gate(name):
    with multiprocessing.get_context("fork").Pool(1) as pool:  # the benchmark's classes stay out of this process
        arguments, batch_size, steps = pool.apply(gates)[name]
    given = yaml.safe_load((CONFIGS / "recipe" / f"{name}_cifar10.yaml").read_text())
    cli = build("-c", str(CONFIGS / "recipe" / f"{name}_cifar10.yaml"))
    assert {k: cli.model.hparams[k] for k in arguments} == arguments
    assert cli.model.hparams.backbone == "convnet"
    assert set(given["model"]["init_args"]) <= {"backbone", *arguments}
    assert cli.datamodule.batch_size == batch_size
    assert 0.9 < given["trainer"]["max_epochs"] * (50_000 // batch_size) / steps <= 1.05


def test_the_recipe_of_clip_is_that_of_the_gate(tmp_path):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        recipe = pool.apply(clip_gate)
    (tmp_path / "flickr8k").symlink_to(tmp_path)
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text((tmp_path / "captions.csv").read_text())
    cli = build("-c", str(CONFIGS / "recipe" / "clip_flickr8k.yaml"))
    assert {k: cli.model.hparams[k] for k in recipe["arguments"]} == recipe["arguments"]
    assert cli.trainer.max_epochs == recipe["epochs"]
    for name in ("batch_size", "vocab_size", "max_tokens", "image_size"):
        assert getattr(cli.datamodule, name) == recipe[name]
    assert (cli.datamodule.views.min_scale, cli.datamodule.views.flip) == (recipe["min_scale"], recipe["flip"])


def clip_gate() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "learn_clip.py"))["RECIPES"]["flickr8k"]._asdict()


def test_there_is_a_file_for_every_method_and_data_set():
    from ssl_lightning.help import DATA as DATA_NAMES  # noqa: PLC0415
    from ssl_lightning.help import METHODS as METHOD_NAMES  # noqa: PLC0415

    assert {p.stem.replace("_", "") for p in METHODS} == {name.lower() for name in METHOD_NAMES}
    assert {p.stem.replace("_", "") for p in DATA} == {name.lower() for name in DATA_NAMES}


@pytest.mark.parametrize("path", [*METHODS, *DATA], ids=lambda path: path.stem)
def test_file_repeats_no_default(path):
    """A file holds what differs from the defaults."""
    given = yaml.safe_load(path.read_text())
    (key,) = {"model", "data"} & set(given)
    other = partner(path)
    words = ["-c", str(path), *other, *untrained(path)]
    bare = ["--model" if key == "model" else "--data", given[key]["class_path"], *untrained(path)]
    bare += {"image_text_csv": ["--data.train", "other.csv"], "image_text_shards": ["--data.shards", "more"]}.get(
        path.stem, []
    )
    if key == "data" and "root" in given[key].get("init_args", {}) and path.stem == "image_folder":
        bare += ["--data.root", "other"]
        (Path("other")).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save("other/0.png")
    config, default = build(*words).config["fit"], build(*bare, *other).config["fit"]
    for name, value in given[key].get("init_args", {}).items():
        assert default[key].init_args[name] != value, f"{name} is {value} anyway"
    for name, value in given.get("trainer", {}).items():
        assert default.trainer[name] != value, f"trainer.{name} is {value} anyway"
    assert config[key].class_path == default[key].class_path
