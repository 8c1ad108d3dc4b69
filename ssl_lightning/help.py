"""What the command line answers before torch is imported: names, one line each, and how to begin."""

import fnmatch
import runpy
from pathlib import Path

VERBS = {
    "fit": "train a method",
    "validate": "score the features on the validation images",
    "test": "score the features on the test images; prints a table and writes results.json",
    "predict": "write features, labels and file names of the test images to features.npz",
    "export": "write the backbone of a checkpoint as safetensors in timm's or torchvision's layout",
    "tokenizer": "train a WordPiece tokenizer on text files: tokenizer --files F ... --output T.json",
    "zeroshot": "classify a folder of pictures with words: zeroshot --ckpt_path C --images DIR --classes cat,dog",
    "track": "follow a target through a folder of frames: track --ckpt_path C --video DIR --box x,y,w,h",
    "compare": "put the results of runs into one table, by protocol, and a page: compare RUN... --output DIR",
    "shards": "put images and captions into tar files: shards --table T.csv --output DIR",
    "backbones": "list the networks for --model.backbone: backbones [PATTERN] [--image_size 32]",
}
METHODS = {
    "SimCLR": "two views of one picture attract, the other pictures repel",
    "MoCo": "contrast with a queue of keys from a slow copy of the encoder (versions 1 and 2)",
    "MoCoV3": "contrast within the batch with a slow copy of the encoder, for vision transformers too",
    "CLIP": "an image and its caption attract, the other captions repel; then words classify",
    "RotNet": "tell by how much the picture has been turned",
    "AET": "tell which affine or projective transformation leads to the warped picture",
    "Jigsaw": "tell how the tiles of a picture have been shuffled",
    "Colorization": "tell the colours of a grey picture",
    "MAE": "tell the hidden patches of a picture of which a quarter is seen (vision transformers)",
    "SimMIM": "tell the hidden squares of a picture by a linear layer (vision transformers)",
    "VAE": "draw a code from what the encoder tells of a picture, and the picture from the code",
    "BERT": "tell the masked words of a text, and whether its second part follows the first",
    "UDT": "follow a target through a video and back again, to where it began; then it tracks",
    "DCF": "the same network told where the target is: the yardstick of UDT",
    "MultiTag": "tell which tags people have given a picture, some of them wrong",
    "Classifier": "supervised classification, the yardstick",
    "FixMatch": "few labels: what a weak view of another picture surely shows, a strong view of it must show",
    "Transformer": "an encoder and a decoder of attention, from a token sequence to another",
    "DetectionTransfer": "the network of a checkpoint learns to detect objects, under Faster R-CNN",
    "LinearProbe": "a linear layer on the frozen features of a checkpoint",
    "FineTune": "the whole network of a checkpoint, or a new one, learns the labels",
    "MapProbe": "a convolutional or fully connected classifier on a frozen block of a checkpoint",
}
DATA = {
    "Digits": "1,797 scanned digits that come with scikit-learn; no download",
    "Photos": "crops of scikit-learn's two colour photographs; no download",
    "DigitsTags": "Digits with noisy tags; no download",
    "CIFAR10": "60,000 pictures of 32 x 32, 10 classes; downloaded",
    "CIFAR100": "60,000 pictures of 32 x 32, 100 classes; downloaded",
    "CIFAR10Tags": "CIFAR10 with noisy tags made of its labels; downloaded",
    "STL10": "113,000 pictures of 96 x 96, most of them unlabelled; downloaded",
    "Reversal": "word sequences of Python's documentation, to be reversed; no download",
    "PairsFile": "your own pairs of sentences, a line each: source TAB target",
    "ImageFolder": "your own pictures: train/ and val/ folders of classes, or one flat folder",
    "MovingDigits": "digits that move over photographs, with boxes: annotated video; no download",
    "VideoFolder": "your own videos: folders of frames, with or without groundtruth_rect.txt",
    "DetectionDigits": "digits on photographs, with boxes to detect; no download",
    "DetectionFolder": "your own pictures with boxes, in the layout of COCO or of Pascal VOC",
    "PythonDocs": "the topics of Python's help(), 70 documents of text; no download",
    "TextFile": "your own text: one sentence a line, an empty line between documents",
    "DigitsText": "Digits with captions; no download",
    "ImageTextCSV": "your own pictures with captions: a table with the columns filepath and title",
    "ImageTagsCSV": "your own pictures with tags: a table with the columns filepath and tags",
    "ImageTextShards": "pictures with captions in tar files of webdataset, streamed",
}
EXAMPLES = """\
  ssl-lightning fit --model SimCLR --data CIFAR10
  ssl-lightning fit -c configs/method/moco.yaml -c configs/data/digits.yaml --run runs/first
  ssl-lightning fit --run runs/first --ckpt_path last        go on after an interruption
  ssl-lightning test --run runs/first --ckpt_path last
  ssl-lightning fit --help;  ssl-lightning fit --model.help MoCo"""


def top_level() -> str:
    """The text of ``ssl-lightning --help``."""

    def table(rows: dict[str, str]) -> str:
        return "\n".join(f"  {name:<15} {words}" for name, words in rows.items())

    return (
        "usage: ssl-lightning VERB [options]\n\n"
        f"verbs:\n{table(VERBS)}\n\n"
        f"methods (--model):\n{table(METHODS)}\n"
        "  or a class of your own by its path from this folder: --model my_method.Mine\n\n"
        f"data (--data):\n{table(DATA)}\n\n"
        f"examples:\n{EXAMPLES}\n\n"
        "A run is one folder, --run DIR: config.yaml, checkpoints/, metrics.jsonl, pictures/, results.json.\n"
        "JSONARGPARSE_DEBUG=true shows where an error comes from."
    )


def backbones(pattern: str = "", image_size: int = 224) -> list[str]:
    """A table of networks, all or those whose names contain the pattern (``*`` and ``?`` match any).

    Args:
        pattern: Of names.
        image_size: In pixels: for which the last column says what becomes of the stem, or that the network is refused.

    Raises:
        ValueError: no name matches, or an image_size below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    # not imported: its package imports torch
    names = runpy.run_path(str(Path(__file__).with_name("backbones") / "names.py"))
    groups = {"ours": names["OWN"], "torchvision": names["TORCHVISION"], "timm": names["TIMM"]}
    table = [("name", "library", "year", "parameters", "features", f"stem at {image_size} px")]
    for library, members in groups.items():
        for name, (year, parameters, features, smallest, stem) in members.items():
            if fnmatch.fnmatch(name, f"*{pattern}*"):
                at_size = stem if stem and image_size <= names["SMALL_IMAGE"] else "its own"
                if image_size < smallest:
                    tried = any(image_size <= size < smallest for size in names["SIZES"])
                    at_size = f"{'refused' if tried else 'not tried'}; {smallest} px are taken"
                table.append((name, library, str(year), f"{parameters / 1e6:.2f} M", str(features), at_size))
    if len(table) == 1:
        raise ValueError(
            f"no backbone in the list matches {pattern!r}; every other name of torchvision and timm works too"
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    align = "<<>>><"
    lines = ("  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, align, widths, strict=True)).rstrip() for row in table)
    return list(lines)
