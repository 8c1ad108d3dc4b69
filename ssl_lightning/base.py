"""The two classes that methods extend."""

import copy
import math
import zlib
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.batch import ImageBatch
from datamodules.draws import global_seed, uniform
from datamodules.views import CropFlipViews, Views
from ssl_lightning import __version__
from ssl_lightning.backbones import Backbone, build
from ssl_lightning.optim import optimizer_class, param_groups
from ssl_lightning.schedules import ENDLESS, LRRule, Schedule, lr_factor, scaled_lr

# What a restored optimizer and schedule own: another value on resuming would be ignored.
OPTIMIZATION = (
    "optimizer",
    "lr",
    "lr_rule",
    "base_batch_size",
    "weight_decay",
    "decay_norm_and_bias",
    "optimizer_args",
)


HEAD = "head"  # the feature_layer that is the method's own


def no_head(method: type, backbone: Backbone) -> ValueError:
    return ValueError(
        f"{method.__name__} has no projection head on its features: choose a layer of {backbone.name}: "
        f"{backbone.listed_blocks()}"
    )


def frozen_copy(module: nn.Module) -> nn.Module:
    """A teacher: equal weights, no gradients. The callback MomentumUpdate moves it."""
    return copy.deepcopy(module).requires_grad_(False)


class SSLModule(LightningModule):
    """A method, for any kind of data.

    A method writes ``__init__`` (its paper's numbers as defaults, plain values only, ``**kwargs`` handed on) and
    ``training_step(batch, batch_idx)``, which returns the loss, or a dict of ``loss`` and other terms; each is logged
    as ``train/<name>``. ``forward`` gives the features that every evaluation uses. The arguments are in the checkpoint.

    Args:
        optimizer: A class of torch.optim by name, ``LARS``, ``LAMB`` (timm's, with bias correction, clipping the
            gradient to a norm of 1), or a dotted path.
        lr: Learning rate for a global batch of ``base_batch_size``.
        lr_rule: How the rate follows the global batch (batch x accumulation x processes): ``linear``, ``sqrt`` or
            ``none``.
        base_batch_size: The global batch that ``lr`` is meant for.
        weight_decay: Weight decay.
        decay_norm_and_bias: Whether biases and norms are decayed (and, by LARS, adapted) too.
        optimizer_args: Further arguments of the optimizer, such as ``{"momentum": 0.9}``.
        schedule: ``cosine`` or ``linear`` to 0, ``step`` (times ``step_factor`` at each of ``milestones``),
            ``constant``, ``inverse_sqrt``, which falls as 1 / sqrt(step) after the warm-up, ``exponential``, which
            falls by equal ratios to ``step_factor`` times the rate at the end, or ``cosine_7_16``, FixMatch's, which
            falls as cos(7 pi t / 16) to a fifth.
        schedule_interval: Whether the rate changes at every ``step`` or every ``epoch``.
        warmup_epochs: Epochs in which the rate rises in a line.
        warmup_steps: The same in optimizer steps, for papers that count them; then ``warmup_epochs`` is 0.
        milestones: For ``step``: fractions of the run.
        step_factor: For ``step``: what the rate is multiplied by; for ``exponential``: by the end.

    Raises:
        ValueError: an unknown optimizer, a rate, decay or warm-up below 0, or a warm-up in both units.
    """

    evaluation_settings: ClassVar[tuple[str, ...]] = ()  # arguments that need not be the checkpoint's in an evaluation

    def __init__(
        self,
        *,
        optimizer: str = "SGD",
        lr: float = 0.03,
        lr_rule: LRRule = "linear",
        base_batch_size: int = 256,
        weight_decay: float = 1e-4,
        decay_norm_and_bias: bool = True,
        optimizer_args: dict[str, Any] | None = None,
        schedule: Schedule = "cosine",
        schedule_interval: Literal["step", "epoch"] = "step",
        warmup_epochs: float = 0,
        warmup_steps: int = 0,
        milestones: tuple[float, ...] = (0.6, 0.8),
        step_factor: float = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()  # also the arguments of the methods that extend this class
        warmups = {"warmup_epochs": warmup_epochs, "warmup_steps": warmup_steps}
        for name, value in {"lr": lr, "weight_decay": weight_decay, **warmups}.items():
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if warmup_epochs and warmup_steps:
            raise ValueError(f"warmup_epochs {warmup_epochs:g} and warmup_steps {warmup_steps} are both set: give one")
        self.make_optimizer: Callable[..., Optimizer] = optimizer_class(optimizer)
        self.optimizer_args = optimizer_args or {}
        if optimizer in ("SGD", "LARS"):
            self.optimizer_args = {"momentum": 0.9, **self.optimizer_args}
        self.lr, self.lr_rule, self.base_batch_size = lr, lr_rule, base_batch_size
        self.weight_decay, self.decay_norm_and_bias = weight_decay, decay_norm_and_bias
        self.schedule, self.schedule_interval = schedule, schedule_interval
        self.warmup_epochs, self.warmup_steps = warmup_epochs, warmup_steps
        self.milestones, self.step_factor = milestones, step_factor

    def batch_per_step(self) -> int:
        """Samples that all processes together see in one ``training_step``."""
        loader = self.trainer.train_dataloader
        assert loader is not None
        return loader.batch_size * self.trainer.world_size

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        self.trainer.fit_loop.setup_data()  # the rate follows the batch of the loader
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total) and self.schedule not in ENDLESS:
            raise ValueError(
                f"schedule {self.schedule!r} needs an end: set --trainer.max_epochs or --trainer.max_steps, "
                f"or --model.schedule {' or '.join(ENDLESS)}"
            )
        accumulate = self.trainer.accumulate_grad_batches
        batch = self.batch_per_step() * accumulate
        lr = scaled_lr(self.lr, self.lr_rule, batch, self.base_batch_size)
        per_epoch = math.ceil(self.trainer.num_training_batches / accumulate)
        warmup = self.warmup_steps or round(self.warmup_epochs * per_epoch)
        short = f", all in the warm-up of {warmup}: it gets to {lr * total / warmup:.4g}" if warmup > total else ""
        rank_zero_info(
            f"learning rate {lr:.4g} = {self.lr:g} by rule {self.lr_rule!r} for a global batch of {batch} "
            f"(base {self.base_batch_size}); {total} optimizer steps{short}"
        )
        self.resolved_lr, self.global_batch = lr, batch
        groups = param_groups(self, self.weight_decay, self.decay_norm_and_bias, self.lr_scale)
        for group in groups:
            group["lr"] = lr * group["lr_scale"]
        optimizer = self.make_optimizer(groups, lr=lr, **self.optimizer_args)
        unit = per_epoch if self.schedule_interval == "epoch" else 1

        def factor(step: int) -> float:
            held = step if step < warmup else max(warmup, step // unit * unit)
            return lr_factor(held, total, warmup, self.schedule, self.milestones, self.step_factor)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scale(self, name: str) -> float:
        """The share of the learning rate that a parameter gets, by its dotted name; 1 for some of them."""
        return 1.0

    def on_train_start(self) -> None:
        """
        Raises:
            ValueError: the run goes on with a global batch whose rate the restored optimizer does not have.
        """
        restored = self.trainer.lr_scheduler_configs[0].scheduler.base_lrs[0]
        if not math.isclose(restored, self.resolved_lr):
            raise ValueError(
                f"the checkpoint's optimizer has the learning rate {restored:.4g}, a global batch of "
                f"{self.global_batch} would take {self.resolved_lr:.4g}: go on with the global batch of the run "
                "(batch x accumulation x processes), or start a new one"
            )

    def uniform(self, index: Tensor, n: int) -> Tensor:
        """Random numbers for a pretext task: (B,) places in the data set -> (B, n) float32 in [0, 1) on the CPU.

        They depend on seed, epoch, place and the method's class alone: equal on any number of processes, and again
        after a resume.
        """
        salt = zlib.crc32(type(self).__name__.encode())
        return uniform(index, n, global_seed(), self.current_epoch, salt)

    def on_train_batch_end(self, outputs: dict[str, Tensor], batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for name, value in outputs.items():
            if name == "loss":
                value = value * self.trainer.accumulate_grad_batches  # which Lightning has divided by
            self.log(f"train/{name}", value.detach(), prog_bar=name == "loss")
        if self.trainer._logger_connector.should_update_logs:  # a number from the host waits for the device
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        cls = type(self)
        checkpoint["ssl_lightning"] = {
            "class_path": f"{cls.__module__}.{cls.__qualname__}",
            "init_args": {k: v for k, v in self.hparams.items() if not k.startswith("_")},
            "version": __version__,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        cls = type(self)
        ours = f"{cls.__module__}.{cls.__qualname__}"
        saved = checkpoint.get("ssl_lightning", {}).get("class_path", "no method of ssl_lightning")
        if saved != ours:
            raise ValueError(f"the checkpoint is of {saved}, the model is {ours}: give --model {saved.split('.')[-1]}")


class ImageModule(SSLModule):
    """A method on images.

    Args:
        backbone: Name of the network, see ``ssl-lightning backbones``.
        image_size: Side of the square images in pixels; the command line takes it from the data.
        in_channels: Channels of the images; the command line takes it from the data.
        backbone_args: Further arguments of the network's constructor.
        feature_layer: The layer of the network whose output ``forward`` gives, averaged over its places, and whose
            features are therefore evaluated: the place of a block, from 0 or, negative, from the last, or the dotted
            name of any layer. Of a list of layers each is evaluated: one pass gives all, and the features of all
            images and layers are held at once. None: the last features. It does not change training, and ``test``
            may choose another than ``fit``. ``head``: the output of the method's projection head, in methods that have
            one under this name (SimCLR, MoCo); mu of VAE.
        kwargs: Optimization, see SSLModule.

    Raises:
        ValueError: there is no such layer, the network cannot take such images, or (when the run starts) the method
            has no ``head`` on its features.
    """

    evaluation_settings: ClassVar[tuple[str, ...]] = ("feature_layer",)

    def __init__(
        self,
        *,
        backbone: str = "resnet18",
        image_size: int = 224,
        in_channels: int = 3,
        backbone_args: dict[str, Any] | None = None,
        feature_layer: int | str | list[int | str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size, self.feature_layer = image_size, feature_layer
        self.backbone = build(backbone, in_channels=in_channels, image_size=image_size, **(backbone_args or {}))
        asked = feature_layer if isinstance(feature_layer, list) else [feature_layer]
        names = (HEAD if layer == HEAD else self.backbone.layer_name(layer) for layer in asked if layer is not None)
        self.feature_layers = list(dict.fromkeys(names))

    def setup(self, stage: str) -> None:
        head = getattr(self, HEAD, None)
        matrices = [p for p in head.parameters() if p.ndim > 1] if isinstance(head, nn.Module) else []
        if HEAD in self.feature_layers and not (matrices and matrices[0].shape[1] == self.backbone.dim):
            raise no_head(type(self), self.backbone)

    def default_views(self) -> Views:
        """The augmentation of the method's paper, used where the data set is given none."""
        return CropFlipViews()

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Images (B, C, H, W) float in [0, 1] -> features (B, D), by layer where ``feature_layer`` is a list."""
        if not self.feature_layers:
            return self.backbone(x)
        if self.feature_layer == HEAD:
            return self.get_submodule(HEAD)(self.backbone(x))
        found = self.backbone.layer_features(x, ["" if name == HEAD else name for name in self.feature_layers])
        features = {
            name: found[name] if name != HEAD else self.get_submodule(HEAD)(found[""]) for name in self.feature_layers
        }
        return features if isinstance(self.feature_layer, list) else features[self.feature_layers[0]]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if isinstance(self.backbone, Backbone):  # not one of the user's own
            checkpoint["ssl_lightning"]["backbone"] = self.backbone.recipe

    def validation_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor | dict[str, Tensor]:
        return self(batch.views[0])

    def test_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor | dict[str, Tensor]:
        return self(batch.views[0])

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor | dict[str, Tensor]:
        return self(batch.views[0])
