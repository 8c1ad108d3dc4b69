"""Fine-tuning: how well the whole network learns the classes, beginning with the weights of another run.

The recipe is that of MAE, appendix A.1: He, Chen, Xie, Li, Dollár, Girshick, Masked Autoencoders Are Scalable Vision
Learners, 2021. https://arxiv.org/abs/2111.06377
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.batch import ImageBatch
from datamodules.views import CropFlipViews
from ssl_lightning.labelled import TransferModule
from ssl_lightning.mixing import own_shares, partners


class FineTune(TransferModule):
    """A linear layer and all weights of the backbone learn the labels.

    The further a block is from the classifier, the smaller its learning rate. The images of a batch are mixed
    with their neighbours by mixup or CutMix, drawn for each image.

    The defaults are the paper's for ViT-B and 100 epochs, without RandAugment and random erasing. What it changes in
    the network is ``backbone_args={"global_pool": "avg", "drop_path_rate": 0.1}``: features are the mean of the
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
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            decay_norm_and_bias=decay_norm_and_bias,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {layer_decay}")
        if mixup < 0 or cutmix < 0:
            raise ValueError(f"mixup and cutmix must be at least 0, got {mixup} and {cutmix}")
        self.layer_decay, self.mixup, self.cutmix = layer_decay, mixup, cutmix
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

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        x, label = batch.views[0], batch.label
        if not self.mixup and not self.cutmix:
            return super().training_step(batch, batch_idx)
        shares = own_shares(self.uniform(batch.index, 4), x.shape[-1], self.mixup, self.cutmix, x.device)
        other = partners(len(x)).to(x.device, non_blocking=True)
        logits = self.classifier(self.backbone(x[other].lerp(x, shares[:, None]))).float()

        def cross_entropy(target: Tensor) -> Tensor:
            return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing, reduction="none")

        return cross_entropy(label[other]).lerp(cross_entropy(label), shares.mean((1, 2))).mean()
