"""The classes of methods that learn labels: with a backbone of their own, or with one that another run has trained."""

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from callbacks.results import labels_in_use
from datamodules.batch import ImageBatch
from ssl_lightning.base import HEAD, ImageModule, no_head
from ssl_lightning.export import ForeignFileError, read_backbone
from ssl_lightning.mixing import own_shares, partners
from ssl_lightning.outside_weights import load, load_outside


class CountsEpochs(ImageModule):
    """A method whose scores depend on how long it was trained, and with how many labels.

    Args:
        kwargs: Backbone and optimization, see ImageModule and SSLModule.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loaded_epochs = 0
        self.labels: int | None = None  # that it has learned from, where they were not all

    def on_train_start(self) -> None:
        super().on_train_start()
        few = labels_in_use(self.trainer)
        self.labels = None if few is None else len(few["indices"])

    @property
    def epochs(self) -> int:
        """Epochs of training, of a checkpoint or of this trainer's fit."""
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        return max(self.loaded_epochs, progress.processed)

    @property
    def training_words(self) -> str:
        """How it was trained, for the protocol of a score."""
        rate = f"{self.hparams['optimizer']},lr={self.lr:g} for B={self.base_batch_size}"
        few = "" if self.labels is None else f",{self.labels} labels"
        return f"{rate},after {self.epochs} epochs{few}"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["ssl_lightning"] |= {"epochs": self.epochs, "labels": self.labels}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.loaded_epochs = checkpoint["ssl_lightning"]["epochs"]
        self.labels = checkpoint["ssl_lightning"]["labels"]


class LabelledModule(CountsEpochs):
    """A backbone and a classifier.

    A method makes ``self.classifier`` and says in ``protocol`` what its accuracy means. Logs ``val/top1`` and
    ``test/top1``, the accuracy on the held-out images.

    Args:
        num_classes: Number of classes; the command line takes it from the data.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: fewer than 2 classes.
    """

    classifier: nn.Module
    protocol: str

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.val_top1 = MulticlassAccuracy(num_classes, average="micro")
        self.test_top1 = MulticlassAccuracy(num_classes, average="micro")

    def representation(self, x: Tensor) -> Tensor:
        """What the classifier reads of images (B, C, H, W)."""
        return self.backbone(x)

    @property
    def reads_features(self) -> bool:
        """Whether that is what ``forward`` gives, so that it need not be computed twice."""
        return not self.feature_layers

    @property
    def protocols(self) -> dict[str, str]:
        """What the method's own scores mean, see ResultsFile."""
        return {"top1": f"{self.protocol},{self.training_words}"}

    def validation_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor | dict[str, Tensor]:
        return self.measure(batch, dataloader_idx, "val/top1", self.val_top1)

    def test_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor | dict[str, Tensor]:
        return self.measure(batch, dataloader_idx, "test/top1", self.test_top1)

    def measure(
        self, batch: ImageBatch, dataloader_idx: int, name: str, top1: MulticlassAccuracy
    ) -> Tensor | dict[str, Tensor]:
        x = batch.views[0]
        features = self(x)
        if dataloader_idx == 1:  # the queries; 0 is the bank
            read = features if self.reads_features else self.representation(x)
            top1(self.classifier(read), batch.label)
            self.log(name, top1, on_step=False, on_epoch=True, prog_bar=True, add_dataloader_idx=False)
        return features


class SupervisedModule(LabelledModule):
    """A backbone and a classifier, trained with the cross entropy.

    Args:
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        mixup: alpha of mixup; 0: none. Images are mixed with their neighbours in the batch, by draws of their own.
        cutmix: alpha of CutMix; 0: none. With both, half of the images take each.
        kwargs: Classes, backbone and optimization, see LabelledModule, ImageModule and SSLModule.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, label_smoothing: float = 0.0, mixup: float = 0.0, cutmix: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        if mixup < 0 or cutmix < 0:
            raise ValueError(f"mixup and cutmix must be at least 0, got {mixup} and {cutmix}")
        self.label_smoothing, self.mixup, self.cutmix = label_smoothing, mixup, cutmix

    def mixed(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) to learn from, and their labels (B,), or the shares (B, num_classes) of mixed ones."""
        x, label = batch.views[0], batch.label
        if not self.mixup and not self.cutmix:
            return x, label
        shares = own_shares(self.uniform(batch.index, 4), x.shape[-1], self.mixup, self.cutmix, x.device)
        other = partners(len(x)).to(x.device, non_blocking=True)
        target = F.one_hot(label, self.num_classes).float()
        target = target[other].lerp(target, shares.mean((1, 2))[:, None])
        return x[other].lerp(x, shares[:, None].to(x.dtype)), target

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (B, num_classes) for such labels or shares."""
        return F.cross_entropy(logits.float(), target, label_smoothing=self.label_smoothing)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor | dict[str, Tensor]:
        x, target = self.mixed(batch)
        return self.cross_entropy(self.classifier(self.representation(x)), target)


class CheckpointModule(CountsEpochs):
    """A method that begins with the backbone of another run.

    The other run's checkpoint is read when the module is made anew, weights from elsewhere when its first run starts,
    and neither ever again: the module's own checkpoint holds the backbone's weights and the arguments of which it is
    built.

    Args:
        checkpoint: A checkpoint of any method on images, such as ``runs/simclr/checkpoints/last.ckpt``, or what
            ``ssl-lightning export`` has made of it. Or weights from elsewhere for the network ``backbone``: a state
            dict of torchvision or timm, or a checkpoint of another framework that has one under some prefix; its
            classifier is left out. None: an untrained network, the one named by ``backbone``, for comparison.
        which: ``student``: the network that was trained; ``teacher``: its moving average, in methods that keep one.
        backbone: The network of weights from elsewhere, or one to leave untrained. Leave it out where the checkpoint
            is ours: it says which it is.
        backbone_args: Arguments of the network's constructor beside those that the checkpoint says, such as
            ``{"drop_path_rate": 0.1}``. With ``{"global_pool": "avg"}`` a vision transformer of timm gives the mean of
            its patches, and a new norm takes the place of its last one. Weights from elsewhere get images normalised
            by ImageNet's mean and deviation unless ``mean`` and ``std`` are given here.
        image_size: As the checkpoint's; the command line takes it from the data.
        in_channels: As the checkpoint's; the command line takes it from the data.
        kwargs: Optimization, see SSLModule.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the file is no checkpoint of a method on images, was trained on images of another size, its weights
            do not fit the network, or it does not load safely.
    """

    evaluation_settings = ()

    def __init__(
        self,
        checkpoint: str | None = None,
        which: Literal["student", "teacher"] = "student",
        backbone: str | None = None,
        backbone_args: dict[str, Any] | None = None,
        image_size: int | None = None,
        in_channels: int | None = None,
        **kwargs: Any,
    ) -> None:
        state = None
        if backbone is None:
            if checkpoint is None:
                raise ValueError(f"{type(self).__name__} needs a checkpoint, or a backbone to leave untrained")
            try:
                recipe, state = read_backbone(checkpoint, which)
                recipe = self.adapted(recipe, image_size)
            except ForeignFileError as error:
                raise ValueError(
                    f"{error}. Weights from elsewhere need their network's name: --model.backbone"
                ) from error
            for name, ours in {"image_size": image_size, "in_channels": in_channels}.items():
                if ours not in (None, recipe[name]):
                    raise ValueError(
                        f"{checkpoint} was trained with {name} {recipe[name]}, but the data have {ours}: "
                        f"give data of that size, such as by --data.{name} {recipe[name]}"
                    )
            recipe |= backbone_args or {}
        else:
            recipe = {"name": backbone, **(backbone_args or {})}
            recipe |= {"image_size": image_size or 224, "in_channels": in_channels or 3}
        built = {"backbone": recipe.pop("name"), "backbone_args": recipe}
        built |= {name: recipe.pop(name) for name in ("image_size", "in_channels")}
        super().__init__(**built, **kwargs)
        self.hparams.update(built)  # of which the checkpoint builds it again
        self.has_weights = state is not None or checkpoint is None
        if state is not None and checkpoint is not None:
            own = {key.removeprefix("net."): tensor for key, tensor in state.items() if key.startswith("net.")}
            load(self.backbone, own, checkpoint)

    @staticmethod
    def adapted(recipe: dict[str, Any], image_size: int | None) -> dict[str, Any]:
        """The arguments of `build` for images of another size, in methods that can."""
        return recipe

    def take_weights(self) -> None:
        """Of a run that does not go on from a checkpoint of its own, which comes before."""
        if not self.has_weights:
            load_outside(self.backbone, self.hparams["checkpoint"], self.hparams["which"])
            self.has_weights = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        source = checkpoint["ssl_lightning"]["init_args"]["checkpoint"]
        if source != self.hparams["checkpoint"]:
            raise ValueError(
                f"checkpoint={self.hparams['checkpoint']} would be ignored: this run began with {source}. Drop it, or "
                "start a new run"
            )
        self.has_weights = True

    def on_fit_start(self) -> None:
        self.take_weights()

    def on_validation_start(self) -> None:
        self.take_weights()

    def on_test_start(self) -> None:
        self.take_weights()

    def on_predict_start(self) -> None:
        self.take_weights()


class TransferModule(CheckpointModule, SupervisedModule):
    """A classifier on the backbone of another run."""


class ProbeModule(TransferModule):
    """A classifier on a frozen backbone, which stays in evaluation mode: neither weights nor statistics change.

    Args:
        feature_layer: The layer that the classifier reads, see ImageModule; None: the last features.
        kwargs: Checkpoint, classes and optimization, see TransferModule and SSLModule.

    Raises:
        ValueError: there is no such layer.
    """

    def __init__(self, feature_layer: int | str | None = None, **kwargs: Any) -> None:
        super().__init__(feature_layer=feature_layer, **kwargs)
        if feature_layer == HEAD:  # which the checkpoint's method keeps
            raise no_head(type(self), self.backbone)
        self.backbone.requires_grad_(False).eval()
        self.reads = f"layer {self.feature_layers[0]}" if self.feature_layers else "last features"

    def on_fit_start(self) -> None:
        super().on_fit_start()
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # Lightning's: it is meant

    def train(self, mode: bool = True) -> "ProbeModule":
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.no_grad()
    def representation(self, x: Tensor) -> Tensor:
        return self(x)

    @property
    def reads_features(self) -> bool:
        return True
