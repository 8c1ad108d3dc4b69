"""Fine-tuning: how well the whole network learns the classes, beginning with the weights of another run.

The recipe is that of MAE, appendix A.1: He, Chen, Xie, Li, Dollár, Girshick, Masked Autoencoders Are Scalable Vision
Learners, 2021. https://arxiv.org/abs/2111.06377
"""

from typing import Any

from torch import nn

from datamodules.views import CropFlipViews
from ssl_lightning.labelled import TransferModule


class FineTune(TransferModule):
    """A linear layer and all weights of the backbone learn the labels.

    The further a block is from the classifier, the smaller its learning rate. The images of a batch are mixed
    with their neighbours by mixup or CutMix, drawn for each image.

    The defaults are the paper's for ViT-B and 100 epochs, without RandAugment and random erasing, which the data give:
    ``--data.views RandAugmentViews --data.views.magnitude 27 --data.views.erasing 0.25``. What it changes in the
    network is ``backbone_args={"global_pool": "avg", "drop_path_rate": 0.1}``: features are the mean of the
    patches, and blocks are skipped at random. ViT-L and ViT-H: ``lr=1e-3, layer_decay=0.75``, 50 epochs, drop path 0.2
    and 0.3. With ``backbone`` and no checkpoint the network learns from scratch, for comparison: then
    ``layer_decay=1``.

    Args:
        layer_decay: The learning rate of each block is this share of that of the next one, in (0, 1].
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of CutMix; 0: none. With both, half of the images take each.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        optimizer: See SSLModule.
        lr: For a batch of 256; the paper's has 1024.
        weight_decay: Of matrices and tokens.
        decay_norm_and_bias: The authors decay neither.
        warmup_epochs: Of 100.
        kwargs: Checkpoint, classes and optimization, see TransferModule and SSLModule.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        layer_decay: float = 0.65,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        label_smoothing: float = 0.1,
        optimizer: str = "AdamW",
        lr: float = 5e-4,
        weight_decay: float = 0.05,
        decay_norm_and_bias: bool = False,
        warmup_epochs: float = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            label_smoothing=label_smoothing,
            mixup=mixup,
            cutmix=cutmix,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            decay_norm_and_bias=decay_norm_and_bias,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {layer_decay}")
        self.layer_decay = layer_decay
        self.classifier = nn.Linear(self.backbone.dim, self.num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=2e-5)
        nn.init.zeros_(self.classifier.bias)
        self.protocol = f"fine-tune-v1: all weights,layer decay {layer_decay:g},mixup {mixup:g},cutmix {cutmix:g}"

    def default_views(self) -> CropFlipViews:
        return CropFlipViews(interpolation="bicubic")

    def lr_scale(self, name: str) -> float:
        inside = name.removeprefix("backbone.net.")
        blocks = len(self.backbone.blocks())
        return self.layer_decay ** (blocks - (self.backbone.block_of(inside) if inside != name else blocks))
