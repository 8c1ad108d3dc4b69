"""Wrong commands and wrong data: a message that names the thing and the way out, exit status 2, nothing lost."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_lightning.cli  # noqa: F401  now: Lightning logs to the stderr of its import
from ssl_lightning.__main__ import main

Snapshot = dict[Path, bytes]

FIT = "fit --model SimCLR --data Digits --model.backbone convnet"
PAIRS = "fit --model Transformer --trainer.accelerator cpu --data"
MAPS = "--trainer.callbacks AttentionMaps"
MAE = "fit --model MAE --data Digits --model.backbone vit_tiny_patch16_224"
PROBE = "fit --model LinearProbe --data Digits --model.checkpoint"
FOLDER = (
    "fit --model SimCLR --model.backbone convnet --data ImageFolder --data.image_size 16 --data.batch_size 2 "
    "--data.root"
)


def pictures(*folders: str) -> None:
    """Two pictures in each folder."""
    for folder in folders:
        Path(folder).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((8, 8, 3), 100 * i, dtype=np.uint8)).save(f"{folder}/{i}.png")


def labelled(root: str) -> None:
    pictures(*(f"{root}/{split}/{cls}" for split in ("train", "val") for cls in "ab"))


def unreadable() -> None:
    labelled("broken")
    Path("broken/train/b/1.png").write_bytes(b"no picture")


def differing() -> None:
    labelled("differ")
    pictures("differ/val/c")


def nothing() -> None:
    Path("empty").mkdir()


def other_method() -> None:
    """A run of MoCo."""
    words = "fit --model MoCo --model.queue_size 64 --data Digits --data.batch_size 64 --model.backbone convnet"
    main([*words.split(), "--run", "moco", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"])


def strange_files() -> None:
    torch.save({"state_dict": {}}, "foreign.ckpt")
    torch.save({"where": Path("here")}, "unsafe.ckpt")
    Path("text.ckpt").write_text("hello")
    Path("typo.yaml").write_text("modle:\n  class_path: SimCLR\n")
    Path("typo2.yaml").write_text("trainer:\n  max_epoch: 3\n")


def pairs() -> None:
    Path("bad.tsv").write_text("a\tb\nno tab\n")
    Path("good.tsv").write_text("a\tb\nc\td\n")


def user_code() -> None:
    Path("strange.py").write_text("class NoMethod:\n    pass\n")


def captions(*rows: str, columns: str = "filepath,title") -> None:
    pictures("pictures")
    Path("c.csv").write_text("\n".join([columns, *rows, ""]))


def clip() -> None:
    """A run of CLIP, and a picture."""
    pictures("pictures")
    words = "fit --model CLIP --data DigitsText --model.backbone convnet --model.text_layers 1 --model.text_width 16"
    words += " --data.batch_size 64 --run clip --trainer.max_steps 1 --trainer.limit_val_batches 0"
    main(words.split())


def video(spoil: Callable[[], object] = lambda: None, boxes: str = "2,2,4,4\n" * 4, size: int = 16) -> None:
    """An annotated sequence of 4 frames in videos/walk."""
    Path("videos/walk/img").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((size, size, 3), 40 * i, dtype=np.uint8)).save(f"videos/walk/img/{i + 1}.png")
    Path("videos/walk/groundtruth_rect.txt").write_text(boxes)
    spoil()


def udt() -> None:
    """A run of UDT, and a sequence."""
    video()
    words = "fit --model UDT --data MovingDigits --data.train_videos 1 --data.length 9 --data.image_size 16"
    main(f"{words} --data.batch_size 8 --run udt --trainer.max_steps 1 --trainer.limit_val_batches 0".split())


def another_size() -> None:
    Image.new("RGB", (8, 8)).save("videos/walk/img/3.png")


VIDEO = "fit --model UDT --data VideoFolder --data.image_size 16 --data.batch_size 2 --data.num_workers 0 --data.root"
TRACK = "track --run udt --ckpt_path last --video videos/walk --box"
BOXES = "fit --model DetectionTransfer --model.backbone convnet --data"
CLIP = "fit --model CLIP --model.backbone convnet --data ImageTextCSV --data.image_size 8 --data.train"
TAGS = "fit --model MultiTag --model.backbone convnet --data ImageTagsCSV"
TAGGED = "filepath,tags"
VAE = "fit --model VAE --data Digits --model.backbone convnet"
NAME = "zeroshot --images pictures --ckpt_path clip/checkpoints/last.ckpt"
CASES: list[tuple[Callable[[], None] | None, str, list[str]]] = [
    # verbs, classes, arguments
    (None, "fti --model SimCLR", ["unknown verb 'fti'", "Did you mean fit?"]),
    (None, "fit --model SimCRL --data Digits", ["unknown class 'SimCRL'", "Did you mean SimCLR?", "Known: ", "MoCo"]),
    (None, "fit --model SimCLR --data CIFAR", ["unknown class 'CIFAR'", "Did you mean CIFAR10?", "Digits"]),
    (None, f"{FIT} --data.views SimCLRView", ["unknown class 'SimCLRView'", "SimCLRViews"]),
    (None, f"{FIT} --trainer.callbacks KNNMonitr", ["unknown class 'KNNMonitr'", "KNNMonitor"]),
    (None, "fit --model nowhere.Mine --data Digits", ["cannot import nowhere.Mine", "No module named 'nowhere'"]),
    (user_code, "fit --model strange.Mine --data Digits", ["cannot import strange.Mine", "Mine"]),
    (user_code, "fit --model strange.NoMethod --data Digits", ["strange.NoMethod does not extend SSLModule"]),
    (None, f"{FIT} --model.temprature 3", ["SimCLR has no argument 'temprature'", "Did you mean temperature?"]),
    (None, f"{FIT} --data.batchsize 3", ["Digits has no argument 'batchsize'", "Did you mean batch_size?"]),
    (None, f"{FIT} --model.qwerty 3", ["SimCLR has no argument 'qwerty'", "fit --model.help SimCLR"]),
    (None, f"{FIT} --model.temperature warm", ["--model.temperature takes float, got 'warm'"]),
    (None, f"{FIT} --model.schedule cosin", ["--model.schedule"]),
    (None, f"{FIT} --model.temperature -1", ["temperature must be greater than 0", "-1"]),
    (None, f"{FIT} --model.optimizer Adma", ["unknown optimizer 'Adma'", "Adam"]),
    (None, f"{FIT} --model.backbone resnet19", ["unknown backbone 'resnet19'", "resnet18", "ssl-lightning backbones"]),
    (None, f"{FIT} --modle SimCLR", ["no option --modle", "Did you mean --model?"]),
    (None, f"{FIT} --trainer.max_epoch 3", ["no option --trainer.max_epoch", "Did you mean --trainer.max_epochs?"]),
    (None, f"{FIT} --ckpt last", ["no option --ckpt.", "Did you mean --ckpt_path?"]),
    (None, f"{FIT} --knn.neighbours 3", ["no option --knn.neighbours"]),
    (None, "fit --data Digits", ["fit needs --model", "Known: ", "MoCoV3, MultiTag, RotNet"]),
    (None, "fit --model SimCLR", ["fit needs --data", "Known: ", "CIFAR10"]),
    (None, "fit -c nothere.yaml", ["nothere.yaml", "not exist"]),
    (strange_files, "fit -c typo.yaml", ["'modle", "Did you mean model?"]),
    (strange_files, f"{FIT} -c typo2.yaml", ["max_epoch'", "Did you mean trainer.max_epochs?"]),
    (None, f"{FIT} --trainer.accelerator gpux", ["gpux"]),
    (None, "export --ckpt_path x.ckpt", ["--output"]),
    # masked images
    (None, f"{MAE} --model.backbone resnet18", ["torchvision/resnet18 is none: take vit_base_patch16_224"]),
    (None, f"{MAE} --data.image_size 24", ["image_size must be a multiple of the patch", "16 x 16 px", "have 24"]),
    (None, f"{MAE} --model.mask_ratio 1", ["mask_ratio must lie in (0, 1), got 1.0"]),
    (None, f"{MAE} --model.mask_ratio 0.8", ["mask_ratio 0.8 of 4 patches leaves none visible"]),
    (
        None,
        MAE + ' --model.backbone_args {"patch_size":4,"global_pool":"avg"}',
        ["MAE needs the norm", "fc_norm: false"],
    ),
    (None, f"{MAE} --model.decoder_heads 5", ["a multiple of 4 and of decoder_heads", "5 and 512"]),
    (None, f"{MAE.replace('MAE', 'SimMIM')} --model.mask_unit 24", ["mask_unit must be a multiple", "got 24", "of 16"]),
    (None, "tokenizer --files nothere.txt --output t.json", ["there is no file nothere.txt"]),
    # data
    (None, "fit --model SimCLR --data ImageFolder", ["ImageFolder needs root", "--data.root"]),
    (None, f"{FOLDER} nothere", ["there is no folder", "nothere", "--data.root"]),
    (nothing, f"{FOLDER} empty", ["there is no image in", "empty"]),
    (differing, f"{FOLDER} differ", ["same classes", "differ/val", "c"]),
    (unreadable, f"{FOLDER} broken --data.num_workers 0", ["broken/train/b/1.png", "--data.skip_unreadable true"]),
    (unreadable, f"{FOLDER} broken --data.num_workers 1", ["broken/train/b/1.png", "--data.skip_unreadable true"]),
    (unreadable, f"{FOLDER} broken --data.cache true", ["broken/train/b/1.png", "--data.skip_unreadable true"]),
    (None, f"{FIT} --data.batch_size 2000", ["1437", "2000", "set batch_size to at most 1437"]),
    (None, f"{FIT} --data.views CropFlipViews", ["CropFlipViews makes 1 view", "SimCLR learns from 2"]),
    (None, f"{PAIRS} PairsFile", ["PairsFile needs path", "--data.path"]),
    (None, f"{PAIRS} PairsFile --data.path nothere.tsv", ["there is no file nothere.tsv", "source TAB target"]),
    (pairs, f"{PAIRS} PairsFile --data.path bad.tsv", ["bad.tsv, line 2", "source TAB target", "'no tab'"]),
    (pairs, f"{PAIRS} PairsFile --data.path good.tsv", ["2 training samples", "64", "set batch_size to at most 2"]),
    (None, f"{PAIRS} Reversal --data.min_length 9 --data.max_length 3", ["min_length <= max_length", "9 and 3"]),
    (None, f"{PAIRS} Reversal --model.num_heads 3", ["dim 512", "num_heads", "3"]),
    (None, f"{PAIRS} Reversal --model.vocab_size 9", ["vocab_size is 9", "Reversal has 1004"]),
    (None, f"{PAIRS} Reversal --model.dim 16 {MAPS} --trainer.callbacks.layer 6", ["no layer 6", "6 layers", "0 to 5"]),
    (None, f"{FIT} {MAPS}", ["no attention", "convnet", "vit_tiny_patch16_224"]),
    # sizes
    (None, f"{PAIRS} Digits", ["Transformer needs vocab_size", "Digits"]),
    (None, "fit --model SimCLR --data Reversal", ["SimCLR needs image_size", "Reversal"]),
    (
        lambda: Path("empty.txt").write_text("\n\n"),
        "fit --model BERT --data TextFile --data.files empty.txt",
        ["empty.txt hold(s) no sentence"],
    ),
    (
        lambda: Path("one.txt").write_text("a sentence\nand another\n"),
        "fit --model BERT --model.size tiny --data TextFile --data.files one.txt --data.vocab_size 60",
        ["1 training document(s)", "parted by empty lines"],
    ),
    # sizes
    (None, "fit --model BERT --data Digits", ["BERT needs vocab_size", "Digits has images"]),
    (None, "fit --model SimCLR --data PythonDocs", ["SimCLR needs image_size", "PythonDocs has pairs"]),
    (None, "fit --model BERT --model.size bass --data PythonDocs", ["unknown size 'bass'", "Did you mean base?"]),
    (
        None,
        "fit --model BERT --model.size tiny --data PythonDocs --data.max_tokens 600",
        ["600 tokens do not fit 512 positions", "--data.max_tokens 512"],
    ),
    (
        lambda: pictures("flat"),
        "fit --model Classifier --model.backbone convnet --data ImageFolder --data.root flat",
        ["Classifier needs num_classes", "ImageFolder", "no labels"],
    ),
    (None, "fit --model Classifier --data Digits --model.num_classes 7", ["num_classes is 7", "Digits has 10"]),
    (None, f"{FIT} --model.image_size 64", ["image_size is 64", "Digits has 32"]),
    (
        None,
        "fit --model MoCo --data Digits --data.batch_size 64 --model.backbone convnet --model.queue_size 1000",
        ["queue_size 1000", "64", "set queue_size to 1024"],
    ),
    # captions
    (
        None,
        "fit --model CLIP --data Digits --model.backbone convnet",
        ["needs vocab_size and end_token", "ImageTextCSV"],
    ),
    (lambda: captions(columns="file,title"), f"{CLIP} c.csv", ["c.csv has no column filepath", "names file, title"]),
    (lambda: captions("pictures/7.png,x"), f"{CLIP} c.csv", ["line 2: there is no image pictures/7.png"]),
    (lambda: captions("pictures/0.png,"), f"{CLIP} c.csv", ["line 2: the caption of 'pictures/0.png' is empty"]),
    (lambda: captions("pictures/0.png,a dog, which runs"), f"{CLIP} c.csv", ["line 2: 3 fields", "double quotes"]),
    (None, f"{CLIP} nothere.csv", ["there is no table nothere.csv"]),
    (None, "shards --table nothere.csv --output s", ["there is no table nothere.csv"]),
    (
        None,
        "fit --model SimCLR --model.backbone convnet --data Digits --trainer.callbacks+=ZeroShot",
        ["ZeroShot needs a method that embeds images and texts", "SimCLR does not"],
    ),
    (
        None,
        "fit --model CLIP --model.backbone convnet --data DigitsText --trainer.callbacks+=ZeroShot "
        "--trainer.callbacks.templates [digit]",
        ["the template 'digit' has no {}"],
    ),
    (clip, f"{NAME} --classes ,", ["there are no class names"]),
    (clip, f"{NAME} --classes cat,dog,cat", ["the class 'cat' is given twice: drop one"]),
    (clip, f"{NAME} --classes cat,dog --templates photo", ["the template 'photo' has no {}"]),
    (clip, f"{NAME} --classes cat --images clip/nothere", ["there is no image in", "clip/nothere"]),
    (clip, "export --run clip --ckpt_path last --output o --layout open_clip", ["open_clip has no CLIP on convnet"]),
    (other_method, "zeroshot --images moco --ckpt_path moco/checkpoints/last.ckpt --classes a", ["no image in"]),
    # tags
    (None, f"{TAGS.replace('ImageTagsCSV', 'Digits')}", ["MultiTag needs num_tags", "Digits has images"]),
    (None, f"{TAGS.replace('ImageTagsCSV', 'DigitsTags')} --data.wrong 2", ["probability wrong must lie in [0, 1]"]),
    (None, f"{TAGS.replace('ImageTagsCSV', 'DigitsTags')} --model.num_tags 9", ["num_tags is 9", "DigitsTags has 13"]),
    (None, TAGS, ["ImageTagsCSV needs train", "--data.train"]),
    (None, f"{TAGS} --data.train nothere.csv", ["there is no table nothere.csv"]),
    (captions, f"{TAGS} --data.train c.csv", ["c.csv has no column tags", "names filepath, title"]),
    (lambda: captions("pictures/7.png,x", columns=TAGGED), f"{TAGS} --data.train c.csv", ["line 2: there is no image"]),
    (
        lambda: captions("pictures/0.png,red big", "pictures/1.png,red", columns=TAGGED),
        f"{TAGS} --data.train c.csv",
        ["0 tags stand on at least 5 and at most 0.5 of the 2 images of c.csv", "change min_count or max_share"],
    ),
    # codes
    (None, f"{VAE} --model.latent_dim 0", ["latent_dim and decoder_width must be at least 1, got 0 and 32"]),
    (None, f"{VAE} --model.likelihood poisson", ["--model.likelihood", "'gaussian', 'bernoulli'"]),
    (None, f"{VAE} --model.feature_layer 9", ["no layer 9", "3 (layers.11)"]),
    # video
    (None, f"{VIDEO} nothere", ["there is no folder", "nothere"]),
    (lambda: video(boxes="2,2,4,4\n" * 3), f"{VIDEO} videos", ["sequence walk: 3 lines", "4 frames", "frame 4"]),
    (lambda: video(boxes="2,2,4,4\n2,2,4\n"), f"{VIDEO} videos", ["sequence walk, line 2", "'2,2,4' is no box"]),
    (
        lambda: video(boxes="2,2,4,4\n" * 3 + "20,2,4,4\n"),
        f"{VIDEO} videos",
        ["sequence walk, frame 4: the box 20,2,4,4 lies outside of the frame of 16 x 16"],
    ),
    (lambda: video(boxes="2,2,0,4\n" * 4), f"{VIDEO} videos", ["sequence walk, frame 1", "has no area"]),
    (lambda: pictures("videos/walk") or Path("videos/walk/1.png").unlink(), f"{VIDEO} videos", ["walk has one frame"]),
    (
        lambda: video(another_size),
        f"{VIDEO} videos",
        ["sequence walk, frame 3", "8 x 8 pixels, but frame 1 has 16 x 16"],
    ),
    (
        lambda: video(lambda: Path("videos/walk/img/2.png").write_bytes(b"no picture")),
        f"{VIDEO} videos",
        ["sequence walk, frame 2: cannot read", "videos/walk/img/2.png"],
    ),
    (
        lambda: video(lambda: Path("videos/walk/groundtruth_rect.txt").unlink()),
        f"{VIDEO.replace('UDT', 'DCF')} videos",
        ["sequence walk is not annotated"],
    ),
    (None, "fit --model SimCLR --data MovingDigits", ["MovingDigits has videos, which SimCLR does not learn from"]),
    (None, "fit --model UDT --data Digits", ["UDT learns from videos, and Digits has images"]),
    (None, 'fit --model UDT --data MovingDigits --model.tracker {"scales":2}', ["scales must be an odd number, got 2"]),
    (udt, f"{TRACK} 2,2,0,4", ["sequence walk, frame 1", "2,2,0,4 has no area"]),
    (udt, f"{TRACK} 40,2,4,4", ["sequence walk, frame 1", "lies outside of the frame of 16 x 16"]),
    (udt, f"{TRACK} 2,2,4", ["'2,2,4' is no box"]),
    (other_method, f"{TRACK.replace('udt', 'moco').replace('videos/walk', 'nothere')} 1,1,2,2", ["nothere"]),
    (
        lambda: (other_method(), video()),
        f"{TRACK.replace('udt', 'moco')} 1,1,2,2",
        ["is of MoCo, which does not track: give a checkpoint of UDT or DCF"],
    ),
    # boxes
    (
        None,
        "fit --model DetectionTransfer --data DetectionDigits",
        ["DetectionTransfer needs a checkpoint, or a backbone"],
    ),
    (None, f"{BOXES} Digits", ["DetectionTransfer learns from images with boxes, and Digits has none"]),
    (None, "fit --model SimCLR --data DetectionDigits", ["has images with boxes, which SimCLR does not learn from"]),
    (None, f"{BOXES} DetectionFolder --data.root nothere", ["there is no folder", "nothere", "--data.root"]),
    (nothing, f"{BOXES} DetectionFolder --data.root empty", ["neither annotations/*.json (COCO)", "Main/*.txt (VOC)"]),
    (None, f"{BOXES} DetectionDigits --data.image_size 40", ["a map of 3 x 3 of images of 40 px", "power of two"]),
    (None, f'{BOXES} DetectionDigits --model.detector_args {{"box_nms":1}}', ["unknown 'box_nms'", "box_nms_thresh"]),
    (None, f"{FIT} --trainer.callbacks+=DetectionPictures", ["needs a method that detects, such as DetectionTransfer"]),
    # runs and checkpoints
    (other_method, f"{FIT} --run moco", ["moco holds a run", "--ckpt_path last", "another --run"]),
    (other_method, f"{FIT} --run moco --ckpt_path last", ["is of MoCo", "--model is SimCLR"]),
    (other_method, "test --run moco --ckpt_path last --model SimCLR", ["is of MoCo", "--model is SimCLR"]),
    (
        other_method,
        "fit --run moco --ckpt_path last --model.lr 3",
        ["3.0 for model.lr would be ignored", "optimizer", "0.03"],
    ),
    (other_method, "test --run moco --ckpt_path last --model.temperature 3", ["would be ignored", "checkpoint"]),
    (
        other_method,
        "fit --run moco --ckpt_path last --model.projection_dim 16",
        ["do not fit", "projection_dim 128 -> 16"],
    ),
    (other_method, "test --run moco --ckpt_path last --data.image_size 16", ["image_size 32", "--data.image_size 32"]),
    (other_method, f"{FIT} --run other --ckpt_path moco/checkpoints/last.ckpt", ["is of MoCo", "SimCLR"]),
    (other_method, "test --run moco --ckpt_path last --model.feature_layer 9", ["no layer 9", "3 (layers.11)"]),
    (other_method, "test --run moco --ckpt_path last --model.feature_layer 0,1", ["Several layers are a list, [0,1]"]),
    (None, f"{FIT} --model.feature_layer layers.2x", ["no layer 'layers.2x'", "Did you mean layers.2?"]),
    (
        None,
        "fit --model AET --data Digits --model.backbone convnet --model.feature_layer head",
        ["AET has no projection"],
    ),
    (None, f"{PROBE} nothere.ckpt", ["there is no checkpoint nothere.ckpt"]),
    (strange_files, f"{PROBE} foreign.ckpt", ["foreign.ckpt was not written by ssl-lightning"]),
    (other_method, f"{PROBE} moco/checkpoints/last.ckpt --data.image_size 16", ["size 32", "--data.image_size 32"]),
    (other_method, f"{PROBE} moco/checkpoints/last.ckpt --model.feature_layer 9", ["no layer 9", "3 (layers.11)"]),
    (other_method, f"{PROBE} moco/checkpoints/last.ckpt --model.feature_layer head", ["LinearProbe has no projection"]),
    (None, f"{FIT} --run nothere --ckpt_path last", ["there is no nothere/checkpoints/last.ckpt", "--run"]),
    (None, f"{FIT} --ckpt_path last", ["--ckpt_path last needs --run"]),
    (None, f"{FIT} --ckpt_path best", ["best", "last"]),
    (None, f"{FIT} --ckpt_path nothere.ckpt", ["there is no checkpoint nothere.ckpt"]),
    (strange_files, "test --data Digits --ckpt_path foreign.ckpt", ["foreign.ckpt was not written by ssl-lightning"]),
    (strange_files, "test --data Digits --ckpt_path unsafe.ckpt", ["unsafe.ckpt does not load safely"]),
    (strange_files, "test --data Digits --ckpt_path text.ckpt", ["text.ckpt is not a whole checkpoint"]),
]


def snapshot() -> Snapshot:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(("before", "command", "words"), CASES, ids=[case[1] for case in CASES])
def test_message_names_the_thing_and_the_way_out(before, command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if before:
        before()
    files = snapshot()
    capsys.readouterr()

    with pytest.raises(SystemExit) as end:
        main(command.split())

    message = capsys.readouterr().err
    assert end.value.code == 2
    for word in words:
        assert word in message
    assert "Traceback" not in message
    assert message[message.index("error: ") :].count("\n") <= 2  # lines
    assert {path: data for path, data in snapshot().items() if path in files} == files  # nothing is lost


def test_a_failed_start_does_not_block_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unreadable()
    words = [*f"{FOLDER} broken --data.num_workers 0 --run a --trainer.max_epochs 1".split(), "--knn.k", "1"]
    with pytest.raises(SystemExit):
        main(words)
    pictures_again = Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8))
    pictures_again.save("broken/train/b/1.png")
    main([*words, "--trainer.limit_val_batches", "0"])
    assert Path("a/checkpoints/last.ckpt").is_file()
