"""Data sets, their views, and the batches they yield."""

from datamodules.batch import (
    DetectionBatch,
    ImageBatch,
    ImageTextBatch,
    PairBatch,
    SequenceBatch,
    TaggedBatch,
    TextBatch,
    VideoBatch,
)
from datamodules.cifar import CIFAR10, CIFAR100
from datamodules.detection import DetectionData
from datamodules.detection_digits import DetectionDigits
from datamodules.detection_folder import DetectionFolder
from datamodules.digits import Digits
from datamodules.digits_text import DigitsText
from datamodules.image_folder import ImageFolder
from datamodules.image_tags_csv import ImageTagsCSV
from datamodules.image_text import ImageTextData
from datamodules.image_text_csv import ImageTextCSV
from datamodules.image_text_shards import ImageTextShards
from datamodules.images import ImageData
from datamodules.moving_digits import MovingDigits
from datamodules.noisy_tags import CIFAR10Tags, DigitsTags, NoisyTags
from datamodules.pairs_file import PairsFile
from datamodules.photos import Photos
from datamodules.python_docs import PythonDocs
from datamodules.reversal import Reversal
from datamodules.stl10 import STL10
from datamodules.tags import TaggedData
from datamodules.text import TextData
from datamodules.text_file import TextFile
from datamodules.video_folder import VideoFolder
from datamodules.videos import Crops, VideoData
from datamodules.views import (
    BYOLViews,
    CropFlipViews,
    FixMatchViews,
    MoCoV1Views,
    MoCoV2Views,
    RandAugmentViews,
    SimCLRViews,
    TrivialAugmentViews,
    Views,
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "STL10",
    "BYOLViews",
    "CIFAR10Tags",
    "CropFlipViews",
    "Crops",
    "DetectionBatch",
    "DetectionData",
    "DetectionDigits",
    "DetectionFolder",
    "Digits",
    "DigitsTags",
    "DigitsText",
    "FixMatchViews",
    "ImageBatch",
    "ImageData",
    "ImageFolder",
    "ImageTagsCSV",
    "ImageTextBatch",
    "ImageTextCSV",
    "ImageTextData",
    "ImageTextShards",
    "MoCoV1Views",
    "MoCoV2Views",
    "MovingDigits",
    "NoisyTags",
    "PairBatch",
    "PairsFile",
    "Photos",
    "PythonDocs",
    "RandAugmentViews",
    "Reversal",
    "SequenceBatch",
    "SimCLRViews",
    "TaggedBatch",
    "TaggedData",
    "TextBatch",
    "TextData",
    "TextFile",
    "TrivialAugmentViews",
    "VideoBatch",
    "VideoData",
    "VideoFolder",
    "Views",
]
