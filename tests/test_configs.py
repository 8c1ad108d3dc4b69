"""Every YAML that is shipped parses, and builds its data and its method."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules.shards import write_shards
from ssl_lightning.cli import SSLCLI, quiet

CONFIGS = Path(__file__).parents[1] / "configs"
METHODS = sorted((CONFIGS / "method").glob("*.yaml"))
DATA = sorted((CONFIGS / "data").glob("*.yaml"))
RECIPES = sorted((CONFIGS / "recipe").glob("*.yaml"))


def untrained(path: Path) -> list[str]:
    """What a method file that wants a checkpoint takes in its place."""
    names = {
        "linear_probe": "convnet",
        "detection_transfer": "convnet",
        "map_probe": "convnet",
        "fine_tune": "vit_tiny_patch16_224",
    }
    return ["--model.backbone", names[path.stem]] if path.stem in names else []


# what method and data files are for, where it is not pictures, and a small method, data and their sizes for each
KINDS = {
    "pairs": ("transformer", "reversal", "pairs_file"),
    "text": ("bert", "python_docs", "text_file"),
    "video": ("udt", "dcf", "moving_digits", "video_folder"),
    "captions": ("clip", "digits_text", "image_text_csv", "image_text_shards"),
    "tags": ("multi_tag", "digits_tags", "cifar10_tags", "image_tags_csv"),
    "boxes": ("detection_transfer", "detection_digits", "detection_folder"),
}
PARTNERS = {
    "pictures": (["simclr", "--model.backbone", "convnet"], "digits", ("image_size", "in_channels")),
    "pairs": (["transformer"], "reversal", ("vocab_size",)),
    "text": (["bert", "--model.size", "tiny"], "python_docs", ("vocab_size", "mask_token")),
    "video": (["udt"], "moving_digits", ("image_size", "in_channels")),
    "captions": (
        ["clip", "--model.backbone", "convnet"],
        "digits_text",
        ("image_size", "vocab_size", "end_token", "max_tokens"),
    ),
    "tags": (["multi_tag", "--model.backbone", "convnet"], "digits_tags", ("image_size", "in_channels", "num_tags")),
    "boxes": (
        ["detection_transfer", "--model.backbone", "convnet"],
        "detection_digits",
        ("image_size", "in_channels", "num_classes"),
    ),
}
CLASSES = {"simclr": "SimCLR", "bert": "BERT", "transformer": "Transformer", "clip": "CLIP", "udt": "UDT"}
CLASSES |= {
    "multi_tag": "MultiTag",
    "digits": "Digits",
    "reversal": "Reversal",
    "python_docs": "PythonDocs",
    "digits_text": "DigitsText",
    "digits_tags": "DigitsTags",
    "moving_digits": "MovingDigits",
    "detection_transfer": "DetectionTransfer",
    "detection_digits": "DetectionDigits",
}


def kind(path: Path) -> str:
    return next((kind for kind, stems in KINDS.items() if path.stem in stems), "pictures")


def partner(path: Path) -> tuple[str, ...]:
    """What goes with a file: data with a method, a method with data; as options and their values."""
    (method, *words), data, _ = PARTNERS[kind(path)]
    return ("--data", CLASSES[data]) if path in METHODS else ("--model", CLASSES[method], *words)


def partner_file(path: Path) -> list[str]:
    """The same as a file and further words."""
    (method, *words), data, _ = PARTNERS[kind(path)]
    if path in METHODS:
        return [str(CONFIGS / "data" / f"{data}.yaml")]
    return [str(CONFIGS / "method" / f"{method}.yaml"), *words]


def build(*words: str) -> SSLCLI:
    return SSLCLI(["fit", *words, "--run", "runs/none"])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder with ten pictures and one pair in it, where nothing may be downloaded."""
    quiet()
    monkeypatch.chdir(tmp_path)
    for name in ("pairs", "other"):
        (tmp_path / f"{name}.tsv").write_text("a b\tb a\n")
    (tmp_path / "pictures").mkdir()
    for i in range(10):
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    for name in ("captions", "other", "train", "test"):
        (tmp_path / f"{name}.csv").write_text("filepath,title\npictures/0.png,a black square\n")
    tagged = [f"pictures/{i}.png,{'red' if i % 2 else 'blue'}" for i in range(10)]
    for name in ("tags", "others"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["filepath,tags", *tagged, ""]))
    for name in ("videos", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "flickr8k").symlink_to(tmp_path)
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / "imagenet" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "imagenet" / name / "0.png")
    for name in ("shards", "more"):
        write_shards("captions.csv", tmp_path / name)
    for name in ("boxes", "more_boxes"):
        (tmp_path / name / "annotations").mkdir(parents=True)
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
        (tmp_path / name / "annotations" / "train.json").write_text(json.dumps(content))
    for name in ("text", "other"):
        (tmp_path / f"{name}.txt").write_text("a sentence\n")


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_method_file_composes_with_a_data_file(path):
    cli = build("-c", str(path), "-c", *partner_file(path), *untrained(path))
    assert type(cli.model).__name__.lower() == path.stem.replace("_", "")
    assert type(cli.datamodule).__name__ == partner(path)[1]


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_data_file_composes_with_a_method_file(path):
    cli = build("-c", *partner_file(path), "-c", str(path))
    assert type(cli.datamodule).__name__.lower() == path.stem.replace("_", "")
    for size in PARTNERS[kind(path)][2]:
        assert cli.model.hparams[size] == getattr(cli.datamodule, size)


def test_quickstart_builds():
    cli = build("-c", str(CONFIGS / "quickstart.yaml"))
    assert type(cli.model).__name__ == "MoCo"
    assert cli.datamodule.views.flip == 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_builds_on_its_data_and_cifar_on_a_copy_in_folders(path):
    cli = build("-c", str(path))
    assert cli.datamodule.image_size == cli.model.hparams["image_size"]
    if "cifar10" not in path.stem:
        return
    assert type(cli.datamodule).__name__ == "CIFAR10"
    copy = build("-c", str(path), "--data", "ImageFolder", "--data.root", "imagenet", "--data.image_size", "32")
    assert type(copy.datamodule).__name__ == "ImageFolder"
    assert copy.datamodule.batch_size == cli.datamodule.batch_size
    assert type(copy.datamodule.views) is type(cli.datamodule.views)


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
    bare += {
        "pairs_file": ["--data.path", "other.tsv"],
        "text_file": ["--data.files", "other.txt"],
        "video_folder": ["--data.root", "other"],
        "image_text_csv": ["--data.train", "other.csv"],
        "image_text_shards": ["--data.shards", "more"],
        "image_tags_csv": ["--data.train", "others.csv"],
        "detection_folder": ["--data.root", "more_boxes"],
    }.get(path.stem, [])
    if key == "data" and "root" in given[key].get("init_args", {}) and path.stem == "image_folder":
        bare += ["--data.root", "other"]
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save("other/0.png")
    config, default = build(*words).config["fit"], build(*bare, *other).config["fit"]
    for name, value in given[key].get("init_args", {}).items():
        assert default[key].init_args[name] != value, f"{name} is {value} anyway"
    for name, value in given.get("trainer", {}).items():
        assert default.trainer[name] != value, f"trainer.{name} is {value} anyway"
    assert config[key].class_path == default[key].class_path
