"""What the commands do; wrong ones stand in test_bad_input.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from PIL import Image
from safetensors import safe_open

import datamodules
from callbacks.checkpoint import ExactResume, RunCheckpoint
from callbacks.finite import FiniteLoss
from callbacks.knn import KNNMonitor
from callbacks.preemption import Preemption
from datamodules.data import Data
from ssl_lightning import __version__, errors, help, methods
from ssl_lightning.__main__ import main
from ssl_lightning.base import SSLModule
from ssl_lightning.cli import SSLCLI, quiet
from ssl_lightning.run import MetricsFile

# small, and without scores where these are not the point
TINY = ["--model.backbone", "convnet", "--data.batch_size", "64", "--trainer.limit_train_batches", "2"]
BLIND = ["--trainer.limit_val_batches", "0"]
FIT = ["fit", "--model", "SimCLR", "--data", "Digits", *TINY, *BLIND]
CAPTIONED = ["fit", "--model", "CLIP", "--data", "DigitsText", *TINY, *BLIND, "--trainer.max_epochs", "1"]

MINE = """
from ssl_lightning.base import ImageModule

class Mine(ImageModule):
    def __init__(self, num_classes: int, sharpness: float = 1.0, fail: str = "", **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.fail = num_classes, fail
        self.save_hyperparameters()

    def training_step(self, batch, batch_idx):
        if self.fail:
            raise ValueError(self.fail)
        return self(batch.views[0]).pow(2).mean()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    quiet()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def rows(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def load(path: str) -> dict:
    return torch.load(path, weights_only=True)


# ---- without torch


def test_help_version_and_backbones_import_no_torch():
    words = [["--help"], ["--version"], ["backbones"], ["backbones", "resnet*", "--image_size", "32"]]
    run = f"from ssl_lightning.__main__ import main\nfor words in {words}: main(words)"
    code = f"{run}\nimport sys\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert __version__ in done.stdout
    assert "SimCLR" in done.stdout


def test_help_names_every_method_data_set_and_no_other():
    assert sorted(help.METHODS) == sorted(methods.__all__)
    assert sorted(help.METHODS) == [n for n in errors.subclasses(SSLModule) if hasattr(methods, n)]
    assert sorted(help.DATA) == [n for n in errors.subclasses(Data) if hasattr(datamodules, n)]


def test_help_names_every_verb():
    others = {"export", "backbones", "compare", "shards", "tokenizer", "track", "zeroshot"}
    assert set(help.VERBS) == {*SSLCLI.subcommands(), *others}


def test_backbones_are_found_by_pattern(capsys):
    main(["backbones", "vit_b_1?"])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["name", "library", "year", "parameters", "features"]
    assert line.split() == ["vit_b_16", "torchvision", "2020", "85.80", "M", "768", "its", "own"]


def test_the_list_of_backbones_says_what_becomes_of_them_at_a_size(capsys):
    main(["backbones", "resnet1??", "--image_size", "32"])
    main(["backbones", "inception_v3", "--image_size", "32"])
    main(["backbones", "resnet18", "--image_size", "96"])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("name")]
    ends = {line.split()[0]: line.split("  ")[-1].strip() for line in lines}
    assert ends["resnet101"] == "3x3 stride 1, no max-pool"
    assert ends["resnet110"] == ends["resnet18"] == "its own"
    assert ends["inception_v3"] == "refused; 128 px are taken"
    main(["backbones", "inception_v3", "--image_size", "112"])
    assert capsys.readouterr().out.splitlines()[1].endswith("not tried; 128 px are taken")


# ---- a run


def test_run_is_one_folder_that_goes_on_and_is_tested(capsys):
    main([*FIT, "--trainer.max_epochs", "1", "--run", "a", "--trainer.log_every_n_steps", "1"])
    out = capsys.readouterr().out
    assert "SimCLR: convnet" in out
    assert "Digits: 1,437 images of 3 x 32 x 32" in out
    assert "Epoch 1/1  step 2  loss" in out
    assert "ssl-lightning test --run a --ckpt_path last" in out
    first = load("a/checkpoints/last.ckpt")
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    for sizes in (config["model"]["init_args"], first["ssl_lightning"]["init_args"], first["hyper_parameters"]):
        assert (sizes["image_size"], sizes["in_channels"]) == (32, 3)
        assert "num_classes" not in sizes
    assert not {"run", "ckpt_path"} & set(config)
    assert [(r["step"], r["epoch"]) for r in rows("a/metrics.jsonl") if "train/loss" in r] == [(0, 0), (1, 0)]

    # the same command goes on, and so does one that leaves all to the run
    main([*FIT, "--trainer.max_epochs", "2", "--run", "a", "--trainer.log_every_n_steps", "1", "--ckpt_path", "last"])
    assert load("a/checkpoints/last.ckpt")["global_step"] == 4
    main(["fit", "--run", "a", "--ckpt_path", "last", "--trainer.max_epochs", "3"])
    assert load("a/checkpoints/last.ckpt")["global_step"] == 6
    main(["fit", "--run", "a", "--ckpt_path", "last"])  # as last started: nothing is left to do
    assert load("a/checkpoints/last.ckpt")["global_step"] == 6
    assert [r["step"] for r in rows("a/metrics.jsonl") if "train/loss" in r] == [0, 1, 2, 3, 4, 5]
    assert Path("a/config.yaml").read_text().endswith(yaml.safe_dump(config, sort_keys=False))
    assert Path("a/config_resume_2.yaml").is_file()

    # method and data come from the run
    main(["test", "--run", "a", "--ckpt_path", "last", "--linear.epochs", "1", "--map.points", "20"])
    results = json.loads(Path("a/results.json").read_text())
    assert results["model"]["class_path"].endswith("SimCLR")
    assert "test/knn_top1" in results["metrics"]
    assert "test/knn_top1" in capsys.readouterr().out
    main(["predict", "--ckpt_path", "a/checkpoints/last.ckpt"])
    assert len(np.load("a/features.npz")["features"]) == 360
    main(["export", "--run", "a", "--ckpt_path", "last", "--output", "a.safetensors"])
    assert Path("a.safetensors").is_file()


def test_layers_are_chosen_when_tested_and_a_probe_follows_a_run(capsys):
    main([*FIT, "--trainer.max_epochs", "1", "--run", "a"])
    once = ["--linear.epochs", "1", "--map.points", "20"]
    main(["test", "--run", "a", "--ckpt_path", "last", "--model.feature_layer", "[0, -1, head]", *once])
    results = json.loads(Path("a/results.json").read_text())
    layers = ["layers.2", "layers.11", "head"]
    assert [name for name in results["metrics"] if "knn_top1" in name] == [f"test/knn_top1/{x}" for x in layers]
    assert results["model"]["init_args"]["feature_layer"] == [0, -1, "head"]
    lines = capsys.readouterr().out.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("layer ")) :]
    assert [line.split()[0] for line in table[:4]] == ["layer", *layers]
    main(["predict", "--run", "a", "--ckpt_path", "last", "--model.feature_layer", "-2"])
    assert np.load("a/features.npz")["features"].shape == (360, 128)

    checkpoint = "a/checkpoints/last.ckpt"
    probe = ["fit", "--model", "LinearProbe", "--data", "Digits", "--model.checkpoint", checkpoint, *BLIND]
    few = ["--trainer.limit_train_batches", "2", "--trainer.max_epochs"]
    main([*probe, *few, "1", "--run", "p", "--model.feature_layer", "-2"])
    Path(checkpoint).unlink()
    main(["fit", "--run", "p", "--ckpt_path", "last", *few, "2"])
    main(["test", "--run", "p", "--ckpt_path", "last", *once])
    results = json.loads(Path("p/results.json").read_text())
    assert results["protocols"]["test/top1"].startswith("linear-probe-v1: frozen,eval mode,layer layers.8,batch norm")
    assert results["protocols"]["test/top1"].endswith("after 2 epochs")


def test_what_the_user_says_wins_over_the_checkpoint_when_a_fit_goes_on():
    main([*FIT, "--trainer.max_epochs", "1", "--run", "a", "--model.projection_dim", "16"])
    main(["fit", "--run", "a", "--ckpt_path", "last", "--trainer.max_epochs", "2", "--model.temperature", "0.7"])
    saved = load("a/checkpoints/last.ckpt")["ssl_lightning"]["init_args"]
    assert saved["temperature"] == 0.7
    assert saved["projection_dim"] == 16


def test_saved_configuration_starts_the_same_run_anew():
    main([*FIT, "--trainer.max_epochs", "1", "--run", "a", "--trainer.log_every_n_steps", "1"])
    main(["fit", "-c", "a/config.yaml", "--run", "b"])
    assert rows("a/metrics.jsonl") == rows("b/metrics.jsonl")


def test_run_folder_is_named_by_method_data_and_time():
    main([*FIT, "--trainer.max_epochs", "1"])
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("simclr-digits-2")


def test_other_data_for_the_test_do_not_inherit_settings():
    main([*FIT, "--trainer.max_epochs", "1", "--run", "a", "--data.seed", "7"])
    cli = SSLCLI(["test", "--run", "a", "--ckpt_path", "last", "--data", "Photos"])
    assert type(cli.datamodule).__name__ == "Photos"
    assert cli.datamodule.seed == 0
    cli = SSLCLI(["test", "--run", "a", "--ckpt_path", "last", "--data.batch_size", "10"])
    assert (cli.datamodule.seed, cli.datamodule.batch_size) == (7, 10)


def test_fast_dev_run_leaves_nothing():
    main([*FIT, "--trainer.fast_dev_run", "true"])
    assert list(Path.cwd().iterdir()) == []


# ---- classes


def test_users_class_is_found_by_its_path_from_the_working_folder():
    Path("mine_alone.py").write_text(MINE)
    words = ["fit", "--model", "mine_alone.Mine", "--data", "Digits", *TINY, *BLIND, "--trainer.max_epochs", "1"]
    main([*words, "--run", "a", "--data.views", "CropFlipViews"])
    saved = load("a/checkpoints/last.ckpt")["ssl_lightning"]
    assert saved["class_path"] == "mine_alone.Mine"
    assert saved["init_args"]["num_classes"] == 10  # required by the class, and known to the data


def test_error_of_a_program_keeps_its_traceback(monkeypatch):
    Path("mine_failing.py").write_text(MINE)
    words = ["fit", "--model", "mine_failing.Mine", "--data", "Digits", *TINY, *BLIND, "--run", "a"]
    with pytest.raises(ValueError, match="a mistake"):
        main([*words, "--model.fail", "a mistake"])
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
    with pytest.raises(ValueError, match="temperature must be greater than 0"):
        main([*FIT, "--model.temperature", "-1"])


def test_unlabelled_pictures_train_a_method_without_labels():
    Path("pictures").mkdir()
    for i in range(8):
        Image.fromarray(np.full((16, 16, 3), 30 * i, dtype=np.uint8)).save(f"pictures/{i}.png")
    data = ["--data", "ImageFolder", "--data.root", "pictures", "--data.image_size", "16", "--data.num_workers", "0"]
    small = ["--data.batch_size", "4", "--model.backbone", "convnet", "--trainer.max_epochs", "1"]
    main(["fit", "--model", "SimCLR", *data, *small, "--run", "a"])
    assert load("a/checkpoints/last.ckpt")["global_step"] == 2


# ---- the trainer


def test_few_labels_are_those_that_the_run_began_with(capsys, caplog):
    words = ["fit", "--model", "LinearProbe", "--data", "Digits", *TINY, *BLIND, "--data.label_fraction", "0.05"]
    main([*words, "--trainer.max_epochs", "1", "--run", "a"])
    assert "Digits: 72 images of 3 x 32 x 32, 1 batches" in capsys.readouterr().out
    drawn = json.loads(Path("a/labelled_indices.json").read_text())
    assert len(drawn["indices"]) == 72
    resume = ["fit", "--run", "a", "--ckpt_path", "last", "--trainer.max_epochs", "2"]
    with pytest.raises(SystemExit):
        main([*resume, "--seed_everything", "1"])
    assert "a/checkpoints/last.ckpt has learned from other labelled images" in capsys.readouterr().err
    assert [path.name for path in Path("a").glob("config*")] == ["config.yaml"]  # what `test` reads
    main(resume)
    caplog.clear()
    main(["test", "--run", "a", "--ckpt_path", "last", "--trainer.limit_test_batches", "0"])
    assert "72 of 1,437 labelled training images are used, 7 to 8 of each class" in caplog.messages


def test_a_probe_takes_weights_from_elsewhere_and_then_needs_them_no_more(capsys):
    net = timm.create_model("resnet10t", num_classes=5)
    torch.save({"state_dict": {f"net.{k}": v for k, v in net.state_dict().items()}}, "other.ckpt")
    words = ["--data", "Digits", "--data.batch_size", "64", "--trainer.limit_train_batches", "1", *BLIND]
    words = ["fit", "--model", "LinearProbe", *words, "--model.checkpoint", "other.ckpt", "--trainer.max_epochs", "1"]
    named = [*words, "--model.backbone", "resnet10t", "--model.backbone_args.small_stem", "false", "--run", "a"]
    with pytest.raises(SystemExit):
        main(words)
    assert "Weights from elsewhere need their network's name: --model.backbone" in capsys.readouterr().err
    main(named)
    Path("other.ckpt").unlink()
    main(["fit", "--run", "a", "--ckpt_path", "last", "--trainer.max_epochs", "2"])
    main(["test", "--run", "a", "--ckpt_path", "last", "--trainer.limit_test_batches", "0"])
    saved = load("a/checkpoints/last.ckpt")
    weights = saved["state_dict"]
    assert saved["ssl_lightning"]["backbone"]["small_stem"] is False
    assert torch.equal(weights["backbone.net.layer1.0.conv1.weight"], net.layer1[0].conv1.weight)


def test_our_callbacks_are_always_there_and_the_users_are_added():
    cli = SSLCLI([*FIT, "--trainer.callbacks+=LearningRateMonitor", "--knn.k", "3"])
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    for kind in (LearningRateMonitor, RunCheckpoint, FiniteLoss, Preemption, ExactResume):
        assert kinds.count(kind) == 1
    assert next(c for c in cli.trainer.callbacks if isinstance(c, KNNMonitor)).k == 3


def test_averaged_weights_are_what_is_tested_and_the_run_goes_on_with_its_own():
    words = ["--trainer.limit_train_batches", "2", *BLIND, "--trainer.callbacks+=WeightEMA"]
    words += ["--trainer.callbacks.decay", "0.5", "--data.image_size", "16", "--model.backbone_args", '{"width": 2}']
    start = ["fit", "--model", "Classifier", "--model.backbone", "convnet", "--data", "Digits", *words]
    start += ["--model.schedule", "constant"]
    main([*start, "--trainer.max_epochs", "1", "--run", "a"])
    main(["fit", "--run", "a", "--ckpt_path", "last", "--trainer.max_epochs", "2"])
    main([*start, "--trainer.max_epochs", "2", "--run", "b"])
    one, two = load("a/checkpoints/last.ckpt"), load("b/checkpoints/last.ckpt")
    for state in (lambda saved: saved["state_dict"], lambda saved: saved["callbacks"]["WeightEMA"]["weights"]):
        assert all(torch.equal(tensor, state(two)[name]) for name, tensor in state(one).items())
    name = "classifier.weight"
    assert not torch.equal(one["state_dict"][name], one["callbacks"]["WeightEMA"]["weights"][name])
    main(["test", "--run", "a", "--ckpt_path", "last", "--trainer.limit_test_batches", "0"])


def test_slurm_requeue_is_left_to_our_callback(monkeypatch):
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "17"}.items():
        monkeypatch.setenv(name, value)
    cli = SSLCLI(FIT)
    assert cli.trainer._accelerator_connector.cluster_environment.auto_requeue is False
    assert cli.folder == Path("runs/simclr-digits-job17")


def test_users_logger_is_joined_by_the_metrics_file():
    main([*FIT, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "csv", "--trainer.max_epochs", "1",
          "--trainer.log_every_n_steps", "1", "--run", "a"])  # fmt: skip
    assert Path("csv").is_dir()
    assert rows("a/metrics.jsonl")


def test_metrics_file_mends_a_half_line_and_keeps_to_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "epoch": 0}\n{"step": 2, "ep')
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"train/loss": float("nan"), "epoch": 1.0}, step=3)
    logger.log_metrics({"train/loss": 0.5}, step=4)
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines[2:]] == [
        {"step": 3, "epoch": 1, "train/loss": None},
        {"step": 4, "epoch": None, "train/loss": 0.5},
    ]


def test_processes_that_lightning_starts_share_the_folder(monkeypatch):
    first = SSLCLI(FIT).folder
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("time.strftime", lambda *_: "later")
    assert os.environ["SSL_LIGHTNING_RUN"] == str(first)
    assert SSLCLI(FIT).folder == first


def test_under_torchrun_inside_a_slurm_job_torchrun_counts_the_processes(monkeypatch):
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "17", "SLURM_PROCID": "0"}
    torchrun = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    for name, value in {**slurm, **torchrun, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    trainer = SSLCLI([*FIT, "--run", "a", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"]).trainer
    assert isinstance(trainer.strategy.cluster_environment, TorchElasticEnvironment)


def test_a_run_that_ended_before_its_first_checkpoint_starts_again():
    Path("a").mkdir()
    Path("a/metrics.jsonl").write_text('{"step": 0, "epoch": 0, "train/loss": 9.0}\n')
    main([*FIT, "--run", "a", "--trainer.max_epochs", "1"])
    assert rows("a/metrics.jsonl")
    assert Path("a/checkpoints/last.ckpt").exists()


def test_export_takes_a_layout(tmp_path):
    main([*FIT, "--model.backbone", "resnet18", "--model.hidden_dim", "8", "--run", "a", "--trainer.max_steps", "1"])
    command = ["export", "--run", "a", "--ckpt_path", "last", "--output", "b.safetensors", "--layout", "timm"]
    main(command)
    plain = timm.create_model("resnet18", num_classes=0)
    stem = {"conv1.weight"}  # of small pictures
    with safe_open("b.safetensors", "pt") as file:
        assert set(file.keys()) == set(plain.state_dict())
        shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
    assert {k for k, v in plain.state_dict().items() if tuple(v.shape) != shapes[k]} == stem


def test_words_classify_the_pictures_of_a_folder(capsys):
    words = ["--model.text_layers", "1", "--model.text_width", "32", "--data.image_size", "16"]
    main([*CAPTIONED, *words, "--run", "run"])
    digits = datamodules.Digits(image_size=20)
    digits.setup("test")
    Path("pictures").mkdir()
    for i, image in enumerate(next(iter(digits.predict_dataloader())).image[:3]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(f"pictures/{i}.png")
    capsys.readouterr()
    main("zeroshot --run run --ckpt_path last --images pictures --classes zero,one,two --output out".split())
    printed = capsys.readouterr().out.splitlines()
    table = [line.split(",") for line in Path("out/zeroshot.csv").read_text().splitlines()]
    assert table[0] == ["filepath", "class", "zero", "one", "two"]
    assert printed[0].split() == ["file", "class", "probability"]
    for i, row in enumerate(table[1:]):
        p = [float(x) for x in row[2:]]
        assert row[0] == f"{i}.png"
        assert row[1] == table[0][2 + p.index(max(p))]
        assert sum(p) == pytest.approx(1, abs=2e-4)
        assert printed[1 + i].split() == [row[0], row[1], f"{max(p):.3f}"]
    with Image.open("out/zeroshot.png") as picture:
        assert min(picture.size) > 150


def test_a_clip_is_scored_on_labelled_pictures_without_captions():
    words = ["--model.text_layers", "1", "--model.text_width", "32", "--model.weight_decay", "0.1"]
    main([*CAPTIONED, *words, "--run", "run"])
    callback = ["--trainer.callbacks+=ZeroShot", "--trainer.callbacks.templates", '["the digit {}"]']
    main(["test", "--run", "run", "--ckpt_path", "last", "--data", "Digits", *callback, "--knn.k", "5"])
    results = json.loads(Path("run/results.json").read_text())
    assert "test/zeroshot_top1" in results["metrics"]
    assert "the digit {}" in results["protocols"]["test/zeroshot_top1"]
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)["ssl_lightning"]
    assert json.loads(saved["tokenizer"])["model"]["type"] == "BPE"


def test_shards_are_made_from_a_table():
    Path("pictures").mkdir()
    for i in range(5):
        Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(f"pictures/{i}.png")
    Path("t.csv").write_text("filepath,title\n" + "".join(f"pictures/{i}.png,number {i}\n" for i in range(5)))
    main("shards --table t.csv --output s --images_per_shard 2".split())
    assert json.loads(Path("s/sizes.json").read_text()) == {"00000.tar": 2, "00001.tar": 2, "00002.tar": 1}


# ---- text


@pytest.mark.filterwarnings("ignore:the features have collapsed")  # of two kinds of sentences
def test_text_is_learned_tested_exported_and_gone_on_from(capsys):
    Path("text").mkdir()
    for name, words in {"a": "red green blue", "b": "one two three four"}.items():
        sentences = [" ".join(words.split()[i % 3 :] * (1 + i % 2)) for i in range(120)]
        text = "".join(s + "\n" * (1 + (i % 6 == 5)) for i, s in enumerate(sentences))
        Path(f"text/{name}.txt").write_text(text)
    Path("labelled.tsv").write_text("".join(f"{i % 2}\t{'red two'.split()[i % 2]} thing\n" for i in range(60)))
    main("tokenizer --files text/*.txt --vocab_size 64 --output t.json".split())
    assert "wrote t.json" in capsys.readouterr().out
    net = '{"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}'
    text = ["--model", "BERT", "--data", "TextFile", "--data.files", "text/*.txt", "--data.max_tokens", "16"]
    text += ["--data.batch_size", "8", "--data.labelled", "labelled.tsv", "--data.held_out", "0.2"]
    small = ["--model.network_args", net, "--trainer.max_steps", "2", "--knn.k", "3"]
    main(["fit", *text, *small, "--data.tokenizer", "t.json", "--run", "a"])
    out = capsys.readouterr().out
    assert "pairs of 16 tokens, 64 pieces" in out
    saved = load("a/checkpoints/last.ckpt")["ssl_lightning"]
    assert (saved["init_args"]["vocab_size"], saved["init_args"]["mask_token"]) == (64, 4)
    assert saved["tokenizer"] == Path("t.json").read_text()

    Path("t.json").rename("moved.json")  # the checkpoint has it
    main(["test", *text, "--ckpt_path", "a/checkpoints/last.ckpt", "--linear.epochs", "1", "--knn.k", "3"])
    results = json.loads(Path("a/results.json").read_text())
    assert {"test/knn_top1", "test/linear_top1", "test/pretext_mlm_loss", "test/pretext_nsp_accuracy"} <= set(
        results["metrics"]
    )
    main(["predict", *text, "--ckpt_path", "a/checkpoints/last.ckpt", "--model.features", "cls"])
    found = np.load("a/features.npz")
    assert (found["features"].shape, set(found["name"])) == ((12, 8), {"red thing", "two thing"})
    main("export --run a --ckpt_path last --output hf".split())
    main(["fit", *text, "--data.tokenizer", "hf", "--model.weights", "hf", *small[2:], "--run", "b"])
    main("tokenizer --files text/*.txt --vocab_size 65 --output t.json".split())
    main("tokenizer --files text/a.txt --vocab_size 64 --output u.json".split())
    capsys.readouterr()
    for words, message in (
        ("--data.tokenizer u.json", "the tokenizer u.json is not the tokenizer of a/checkpoints/last.ckpt: drop it"),
        ("--data.vocab_size 65", "vocab_size is 65, but the tokenizer of a/checkpoints/last.ckpt has 64 pieces"),
    ):
        with pytest.raises(SystemExit):
            main(["test", *text, "--ckpt_path", "a/checkpoints/last.ckpt", *words.split()])
        assert message in capsys.readouterr().err


WITHOUT_TEXT = """
import importlib.abc, importlib.metadata, sys

HIDDEN = ("transformers", "tokenizers")
version = importlib.metadata.version

def hidden_version(name):
    if name in HIDDEN:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

class Hider(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

importlib.metadata.version = hidden_version
sys.meta_path.insert(0, Hider())
from ssl_lightning.__main__ import main

main("fit --model SimCLR --model.backbone convnet --data Digits --trainer.fast_dev_run true".split())
main("fit --model BERT --data PythonDocs".split())
"""


def test_images_need_no_text_library():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT_TEXT], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "SimCLR: convnet" in done.stdout
    assert done.stderr.strip().endswith("pip install 'ssl-lightning[text]'")
