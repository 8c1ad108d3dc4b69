"""Learning Transferable Visual Models From Natural Language Supervision.

Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever, 2021.
https://arxiv.org/abs/2103.00020
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from datamodules.batch import ImageTextBatch
from datamodules.byte_pairs import BytePairs
from datamodules.image_text import ImageTextData
from datamodules.images import ImageData
from datamodules.tokenizer import read
from datamodules.views import CropFlipViews
from ssl_lightning.base import ImageModule
from ssl_lightning.chunks import check_chunk_size, in_chunks
from ssl_lightning.clip_weights import read_weights
from ssl_lightning.distributed import gather_rows, world_size
from ssl_lightning.schedules import LRRule
from ssl_lightning.text_transformer import TextTransformer

MAX_SCALE = math.log(100)
TEXTS = 256  # that are embedded at a time
OF_TOKENIZER, OF_DATA = ("vocab_size", "end_token"), ("max_tokens", "image_size")  # what the data say


def first_row(batch: int) -> int:
    """Where this process's rows stand among those of all."""
    return batch * dist.get_rank() if world_size() > 1 else 0


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Each image names its caption among those of the joint batch, and each caption its image (figure 3).

    A process computes the rows of its own samples: the mean over processes is the loss of the joint batch.

    Args:
        image: (B, E) L2-normalised.
        text: (B, E) L2-normalised.
        scale: () by which cosines are multiplied.

    Returns:
        () float32.
    """
    own = torch.arange(len(image), device=image.device) + first_row(len(image))
    of_image = scale * image @ gather_rows(text).T  # (B, W B)
    of_text = scale * text @ gather_rows(image).T
    return (F.cross_entropy(of_image, own) + F.cross_entropy(of_text, own)) / 2


def siglip_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Whether an image and a caption belong together, told for each pair of the joint batch alone, summed over the
    captions and meaned over the images. Zhai et al., 2023, https://arxiv.org/abs/2303.15343, algorithm 1."""
    logits = scale * image @ gather_rows(text).T + bias  # (B, W B)
    own = torch.arange(len(image), device=image.device) + first_row(len(image))
    z = 2.0 * (own[:, None] == torch.arange(logits.shape[1], device=image.device)) - 1.0
    return -F.logsigmoid(z * logits).sum(1).mean()


class CLIP(ImageModule):
    """An image and its caption have the same direction in a common space, other captions and images others.

    Images go through a backbone and a linear layer, captions through a causal Transformer whose output at the end token
    is projected. The tokenizer comes from the data, is kept in the checkpoint, and data with another one are an error.
    Logs ``train/scale``, by which cosines are multiplied: it is learned, and never above 100.

    The numbers are the paper's, for 32 epochs of 400 million images in batches of 32,768; its images are cropped and
    nothing else. Small data want a smaller batch and network: configs/recipe/clip_flickr8k.yaml.

    Args:
        vocab_size: Pieces of the tokenizer; the command line takes it from the data. None: what ``weights`` say.
        end_token: Number of the end token, likewise.
        max_tokens: Length of a caption, likewise; 77 where neither says it.
        embed_dim: Width of the common space. Of this and the next four None is 512, 512, 12, 8 and false, or what
            ``weights`` say.
        text_width: Width of the text Transformer.
        text_layers: Its blocks.
        text_heads: Its heads.
        quick_gelu: x sigmoid(1.702 x) as its activation, OpenAI's; their images go through a
            ``vit_*_clip_quickgelu_*``.
        loss: ``clip``: each names its other among all; ``siglip``: each pair for itself, with a bias.
        chunk_size: Images and captions that the encoders see at a time, where memory cannot hold the batch; see
            docs/methods.md.
        weights: A folder with a CLIP of transformers or of open_clip to go on from, with a vision transformer;
            ``--data.tokenizer`` must be its tokenizer. It says ``backbone``, sizes and activation.
        backbone: See ImageModule. None: vit_base_patch32_clip_224, or what ``weights`` say.
        image_size: See ImageModule.
        backbone_args: See ImageModule.
        optimizer: See SSLModule.
        lr: For any batch.
        lr_rule: See SSLModule.
        weight_decay: Not of biases, norms and the scale.
        decay_norm_and_bias: See SSLModule.
        optimizer_args: None: betas of 0.9 and 0.98 and an epsilon of 1e-6 with AdamW, those for vision transformers.
        warmup_epochs: 2,000 steps of about 12,200 an epoch.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        FileNotFoundError: ``weights`` is no folder of transformers or open_clip.
        ValueError: a number out of its range or missing, weights of another size, or (when the run starts) data with
            another tokenizer or without captions.
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        end_token: int | None = None,
        max_tokens: int | None = None,
        embed_dim: int | None = None,
        text_width: int | None = None,
        text_layers: int | None = None,
        text_heads: int | None = None,
        quick_gelu: bool | None = None,
        loss: Literal["clip", "siglip"] = "clip",
        chunk_size: int | None = None,
        weights: str | None = None,
        backbone: str | None = None,
        image_size: int = 224,
        backbone_args: dict[str, Any] | None = None,
        optimizer: str = "AdamW",
        lr: float = 5e-4,
        lr_rule: LRRule = "none",
        weight_decay: float = 0.2,
        decay_norm_and_bias: bool = False,
        optimizer_args: dict[str, Any] | None = None,
        warmup_epochs: float = 0.16,
        **kwargs: Any,
    ) -> None:
        given = {
            "vocab_size": vocab_size,
            "end_token": end_token,
            "max_tokens": max_tokens,
            "embed_dim": embed_dim,
            "text_width": text_width,
            "text_layers": text_layers,
            "text_heads": text_heads,
            "quick_gelu": quick_gelu,
            "backbone": backbone,
            "image_size": image_size,
            "backbone_args": backbone_args,
        }
        state = None
        if weights is not None and backbone is None:  # else a checkpoint has the weights itself
            built, state = read_weights(weights)
            for name, theirs in built.items():
                if given[name] not in (None, theirs):
                    way_out = f"--data.{name} {theirs}" if name in OF_DATA else f"--model.{name} null"
                    if name in OF_TOKENIZER:
                        way_out = f"--data.tokenizer {weights}"
                    raise ValueError(f"{weights} has {name} {theirs}, not {given[name]}: give {way_out}")
        else:
            paper = {"backbone": "vit_base_patch32_clip_224", "quick_gelu": False, "text_layers": 12, "text_heads": 8}
            paper |= {"embed_dim": 512, "text_width": 512, "max_tokens": 77}
            built = {**given, **{name: value for name, value in paper.items() if given[name] is None}}
            if vocab_size is None or end_token is None:
                raise ValueError("CLIP needs vocab_size and end_token: give data with captions, such as ImageTextCSV")
        super().__init__(
            backbone=built["backbone"],
            image_size=built["image_size"],
            backbone_args=built["backbone_args"],
            optimizer=optimizer,
            lr=lr,
            lr_rule=lr_rule,
            weight_decay=weight_decay,
            decay_norm_and_bias=decay_norm_and_bias,
            optimizer_args={"betas": (0.9, 0.98), "eps": 1e-6}
            if optimizer_args is None and optimizer == "AdamW"
            else optimizer_args,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )
        self.hparams.update(built)  # of which the checkpoint builds it again
        if loss not in ("clip", "siglip"):
            raise ValueError(f"loss must be clip or siglip, got {loss!r}")
        check_chunk_size(chunk_size)
        self.loss, self.chunk_size, self.max_tokens = loss, chunk_size, built["max_tokens"]
        self.text = TextTransformer(
            **{name: built[name] for name in ("vocab_size", "max_tokens", "end_token", "embed_dim", "quick_gelu")},
            **{name: built[f"text_{name}"] for name in ("width", "layers", "heads")},
        )
        self.image_projection = nn.Linear(self.backbone.dim, built["embed_dim"], bias=False)
        nn.init.normal_(self.image_projection.weight, std=self.backbone.dim**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07 if loss == "clip" else 10)))
        if loss == "siglip":
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        self.tokenizer: BytePairs | None = None
        self.has_weights = state is not None or weights is None
        if state is not None:
            self.load_weights(state, weights or "")
            self.tokenizer = BytePairs(read(weights or ""), weights or "")

    def load_weights(self, state: dict[str, Tensor], source: str) -> None:
        """Load weights under our names; the image's mean and standard deviation are set already.

        Raises:
            ValueError: they are not those of a CLIP of our kind.
        """
        state = {**{f"backbone.{name}": getattr(self.backbone, name) for name in ("mean", "std")}, **state}
        if self.loss == "siglip":  # whose scale and bias are others
            state |= {"logit_scale": self.logit_scale.data, "logit_bias": self.logit_bias.data}
        if other := sorted(state.keys() ^ self.state_dict().keys()):
            raise ValueError(
                f"{source} {'has' if other[0] in state else 'lacks'} {other[0]}: it is not a CLIP of a vision "
                "transformer and a causal text Transformer"
            )
        self.load_state_dict(state)
        self.bound_scale()

    def default_views(self) -> CropFlipViews:
        return CropFlipViews(min_scale=0.9, interpolation="bicubic", flip=0.0)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageTextData) and data.pieces is not None:
            self.take_tokenizer(data.pieces, "the weights")
        elif stage == "fit" and isinstance(data, ImageData):
            raise ValueError(
                f"CLIP learns from images with captions, such as ImageTextCSV: {type(data).__name__} has none"
            )

    def take_tokenizer(self, tokenizer: BytePairs, ours: str) -> None:
        """Keep the tokenizer.

        Raises:
            ValueError: there is one already that gives other numbers, or it does not fit the text Transformer.
        """
        if self.tokenizer is not None and self.tokenizer.meaning != tokenizer.meaning:
            raise ValueError(f"the tokenizer of the data is not that of {ours}: give --data.tokenizer that one")
        if tokenizer.end != self.text.end_token or tokenizer.size > self.text.token_embedding.num_embeddings:
            raise ValueError(
                f"the tokenizer has {tokenizer.size} pieces and the end token {tokenizer.end}, the model "
                f"{self.text.token_embedding.num_embeddings} and {self.text.end_token}: take both from the data"
            )
        self.tokenizer = tokenizer

    def on_fit_start(self) -> None:
        if not self.has_weights:
            raise ValueError(f"drop backbone={self.hparams['backbone']}: {self.hparams['weights']} says which it is")

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> dict[str, Tensor]:
        image = in_chunks(self.encode_image, batch.views[0], self.chunk_size)
        text = in_chunks(self.text, batch.tokens, self.chunk_size)
        with torch.autocast(image.device.type, enabled=False):
            u, v = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)  # (B, E)
            scale = self.logit_scale.float().exp()
            if self.loss == "siglip":
                return {"loss": siglip_loss(u, v, scale, self.logit_bias.float()), "scale": scale}
            return {"loss": clip_loss(u, v, scale), "scale": scale}

    def encode_image(self, x: Tensor) -> Tensor:
        return self.image_projection(self.backbone(x))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.bound_scale()

    @torch.no_grad()
    def bound_scale(self) -> None:
        self.logit_scale.clamp_(0, MAX_SCALE)

    # ---- what ZeroShot and Retrieval ask for

    def image_embeddings(self, features: Tensor) -> Tensor:
        """What `forward` gives (N, D) -> (N, E) float32, L2-normalised."""
        return F.normalize(self.image_projection(features.to(self.image_projection.weight)).float(), dim=1)

    @torch.no_grad()
    def text_embeddings(self, texts: list[str]) -> Tensor:
        """N texts -> (N, E) float32, L2-normalised.

        Raises:
            ValueError: there is no tokenizer, because the model has seen no data.
        """
        if self.tokenizer is None:
            raise ValueError("there is no tokenizer: the model has not been trained on captions")
        tokens = torch.from_numpy(self.tokenizer(texts, self.max_tokens))
        parts = [self.text(part.to(self.device)) for part in tokens.split(TEXTS)]
        return F.normalize(torch.cat(parts).float(), dim=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["ssl_lightning"]["tokenizer"] = self.tokenizer and self.tokenizer.json

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.has_weights = True
        if (text := checkpoint["ssl_lightning"]["tokenizer"]) is not None:
            self.take_tokenizer(BytePairs(text, "the checkpoint's tokenizer"), "the checkpoint")
