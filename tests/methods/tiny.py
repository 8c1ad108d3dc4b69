"""Every method at a size for tests, and the runs that the tests compare."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from callbacks.checkpoint import ExactResume, RunCheckpoint
from datamodules import DetectionDigits, DigitsTags, DigitsText, MovingDigits, Photos, PythonDocs, Reversal
from datamodules.batch import ImageBatch, ImageTextBatch, TaggedBatch, VideoBatch
from datamodules.data import Data
from ssl_lightning.base import ImageModule, SSLModule
from ssl_lightning.methods import (
    AET,
    BERT,
    CLIP,
    DCF,
    MAE,
    UDT,
    VAE,
    Classifier,
    Colorization,
    DetectionTransfer,
    FineTune,
    FixMatch,
    Jigsaw,
    LinearProbe,
    MapProbe,
    MoCo,
    MoCoV3,
    MultiTag,
    RotNet,
    SimCLR,
    SimMIM,
    Transformer,
)
from ssl_lightning.siamese import SiameseModule

VIT = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}  # of 16 px it makes a map of 4x4
ON_VIT: dict[str, Any] = {"backbone": "vit_tiny_patch16_224", "backbone_args": VIT}
ON_DCFNET: dict[str, Any] = {"backbone": "dcfnet", "backbone_args": {"width": 4}}
SMALL_BERT = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
SURE = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # processes draw different dropout
TEXT = {"vocab_size": 300, "end_token": 299, "max_tokens": 24, "embed_dim": 8}  # as the captioned digits have it
TINY: dict[type[SSLModule], dict[str, Any]] = {
    BERT: {"vocab_size": 400, "mask_token": 4, "positions": 32, "network_args": {**SMALL_BERT, **SURE}, "lr": 0.01},
    CLIP: {**TEXT, "text_width": 16, "text_layers": 1, "text_heads": 2, "warmup_epochs": 1},
    DCF: ON_DCFNET,
    UDT: {"frames": 4, "multi_trajectory": True, "drop": 0.2, **ON_DCFNET},
    SimCLR: {"projection_dim": 8, "temperature": 0.5, "warmup_epochs": 1},
    MoCo: {"projection_dim": 8, "queue_size": 64, "bn_splits": 2, "momentum": 0.9, "lr": 0.3},
    MoCoV3: {"projection_dim": 8, "hidden_dim": 16, "momentum": 0.9, "warmup_epochs": 1},
    RotNet: {},
    AET: {},
    Jigsaw: {"grid": 2, "tile_size": 6, "tile_dim": 8, "hidden_dim": 16, "dropout": 0.0, "lr": 0.3},
    Colorization: {"decoder_dim": 8, "stride": 2, **ON_VIT},
    MAE: {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2, "lr": 0.1, "warmup_epochs": 1, **ON_VIT},
    SimMIM: {"mask_unit": 8, "lr": 0.1, "warmup_epochs": 1, **ON_VIT},
    VAE: {"latent_dim": 6, "decoder_width": 4},
    MultiTag: {"num_tags": 13},
    Classifier: {"num_classes": 10},
    FineTune: {"num_classes": 10, "lr": 0.1, "warmup_epochs": 1},
    FixMatch: {"num_classes": 10, "threshold": 0.0, "unlabelled_ratio": 2, "ema": 0.9},
    LinearProbe: {"num_classes": 10},
    DetectionTransfer: {
        "num_classes": 10,
        "channels": 8,
        "head_dim": 16,
        "warmup_steps": 0,
        # all anchors but those in between, as many as an image happens to have; some of its proposals
        "detector_args": {
            "rpn_batch_size_per_image": 10_000,
            "rpn_bg_iou_thresh": 0.05,
            "box_batch_size_per_image": 16,
        },
    },
    MapProbe: {"num_classes": 10, "feature_layer": -1, "hidden_dim": 8},
    Transformer: {"vocab_size": 44, "dim": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0},
}
EVERY = sorted(TINY, key=lambda cls: cls.__name__)


def make(cls: type[SSLModule], **changes: Any) -> Any:
    torch.manual_seed(0)
    images = {"backbone": "convnet", "backbone_args": {"width": 4}, "image_size": 16}
    return cls(**{**(images if issubclass(cls, ImageModule) else {}), **TINY[cls], **changes})


def data(cls: type[SSLModule] = ImageModule, **changes: Any) -> Data:
    """Data of the kind that a method is for."""
    if cls is CLIP:
        return DigitsText(**{"batch_size": 16, "image_size": 16, "vocab_size": 300, **changes})
    if cls is MultiTag:
        return DigitsTags(**{"batch_size": 16, "image_size": 16, **changes})
    if issubclass(cls, SiameseModule):
        videos = {"train_videos": 16, "val_videos": 1, "test_videos": 1, "length": 12}
        return MovingDigits(**{"batch_size": 16, "image_size": 16, **videos, **changes})
    if cls is DetectionTransfer:
        return DetectionDigits(**{"train_images": 128, "batch_size": 16, "image_size": 16, **changes})
    if issubclass(cls, ImageModule):
        few = {"labels_per_class": 20} if cls is FixMatch else {}
        return Photos(**{"batch_size": 16, "image_size": 16, **few, **changes})
    if cls is Transformer:
        return Reversal(**{"batch_size": 16, "max_words": 40, **changes})
    return PythonDocs(**{"batch_size": 16, "max_tokens": 32, "vocab_size": 400, **changes})


def training_batch(cls: type[SSLModule], model: Any, device: str) -> Any:
    """16 samples as `training_step` gets them, on a device."""
    if issubclass(cls, SiameseModule):
        frames = torch.rand(16, model.frames, 3, 16, 16, device=device)
        return VideoBatch(frames, torch.full((16, model.frames, 4), 5.0, device=device), torch.arange(16))
    if issubclass(cls, ImageModule):
        image = torch.randint(256, (16, 3, 16, 16), dtype=torch.uint8, device=device)
        label = torch.zeros(16, dtype=torch.int64, device=device)
        if cls is FixMatch:
            label[4:] = -1
        batch = ImageBatch(image, label, torch.arange(16))
        batch = batch._replace(views=model.default_views()(batch.image, batch.index, 16, 0, 0))
        if cls is CLIP:
            return ImageTextBatch(*batch[:3], torch.randint(258, (16, 24), device=device), batch.views)
        if cls is MultiTag:
            return TaggedBatch(*batch[:3], torch.randint(-1, 13, (16, 4), device=device), batch.views)
        return batch
    of = data(cls)
    of.setup("fit")
    return of.transfer_batch_to_device(next(iter(of.train_dataloader())), torch.device(device), 0)


def example(cls: type[SSLModule]) -> Any:
    """What `forward` takes, of 3 samples."""
    words = (4, 44) if cls is Transformer else (5, 400)
    return torch.rand(3, 3, 16, 16) if issubclass(cls, ImageModule) else torch.randint(*words, (3, 32))


def first_layers(model: Any) -> nn.Module:
    """A part of a method's network that gives one tensor."""
    if isinstance(model, ImageModule):
        return model.backbone
    return model.net if isinstance(model, Transformer) else model.bert.embeddings


def without_batch_norm(model: nn.Module) -> nn.Module:
    """SyncBatchNorm does not run on the CPU: the nets whose gradients are compared over processes have none."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, nn.Identity())
    return model


def trainer(folder: Path, *callbacks: Callback, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "limit_val_batches": 0,
        "callbacks": [ExactResume(), RunCheckpoint(every_n_steps=0), *callbacks],
    }
    return Trainer(**{**settings, **changes})
