"""BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding.

Devlin, Chang, Lee, Toutanova, 2018. https://arxiv.org/abs/1810.04805
"""

import difflib
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric

from callbacks.attention_maps import Attention
from datamodules.batch import TextBatch
from datamodules.draws import uniform
from datamodules.text import TextData
from datamodules.tokenizer import read
from datamodules.word_pieces import WordPiece
from ssl_lightning import hugging_face as hf
from ssl_lightning.base import SSLModule
from ssl_lightning.distributed import mean_count
from ssl_lightning.encoder_decoder import positions as positions_of
from ssl_lightning.schedules import LRRule, Schedule
from ssl_lightning.token_masks import SHARE, TokenMasks, choose, draws

# Layers and width; the small ones are of Turc et al., 2019, https://arxiv.org/abs/1908.08962
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}
EMBEDDINGS = "embeddings"  # as a layer


def size_args(size: str) -> dict[str, int]:
    """Values of BertConfig for a size by name: heads of 64 numbers, hidden layers four times as wide.

    Raises:
        ValueError: there is no such size.
    """
    if size not in SIZES:
        close = difflib.get_close_matches(size, SIZES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown size {size!r}.{hint} Known: {', '.join(SIZES)}")
    layers, width = SIZES[size]
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }


class Perplexity(MeanMetric):
    """exp of the mean."""

    def compute(self) -> Tensor:
        return super().compute().exp()


class BERT(SSLModule):
    """Tell the masked words of a text, and whether its second part follows the first.

    15 % of the tokens are chosen, others in every epoch; of these 8 in 10 are replaced by [MASK] and 1 by a random
    piece. Logs ``train/mlm_loss``, ``train/nsp_loss``, ``train/nsp_accuracy`` and, of held-out documents,
    ``pretext_mlm_loss`` (nats a masked token), ``pretext_perplexity`` (its exponential) and ``pretext_nsp_accuracy``
    under ``val/`` and ``test/``. The tokenizer is kept in the checkpoint; data with another one are an error.

    The numbers are the paper's: 1,000,000 steps of 256 sequences, about 40 epochs, with ``--trainer.gradient_clip_val
    1`` (configs/method/bert.yaml). The authors' Adam does not correct its bias, AdamW does.

    Args:
        vocab_size: Pieces of the tokenizer; the command line takes it from the data.
        mask_token: Number of [MASK]; the command line takes it from the data.
        size: ``tiny``, ``mini``, ``small``, ``medium``, ``base`` or ``large``. None: ``base``, or that of ``weights``.
        positions: The longest sequence, in tokens. None: 512, or that of ``weights``.
        whole_word: Whether all pieces of a word are masked or none.
        mask_ratio: Share of the tokens that are chosen in training, in (0, 1); held-out text is always scored with the
            paper's 0.15. More of them teach a small network more in a step (Wettig et al. 2022,
            https://arxiv.org/abs/2202.08005).
        position_init: What the learned positions begin with: ``normal`` numbers, as the paper's, or ``sinusoidal`` ones
            (Vaswani et al. 2017, section 3.5) of half their size, with which neighbouring places begin alike.
        features: What ``forward`` gives: ``mean``, the mean over the tokens, or ``cls``, the output at [CLS].
        feature_layer: The layer whose outputs these are: its place, from 0 or, negative, from the last, or
            ``embeddings``. Of a list each is evaluated, in one pass. None: the last.
        network_args: Further values of transformers' BertConfig, such as ``{"hidden_dropout_prob": 0.2}``.
        weights: A folder of transformers with a BERT to go on from; ``--data.tokenizer`` must be the same folder.
        optimizer: See SSLModule.
        lr: For any batch.
        lr_rule: See SSLModule.
        weight_decay: Not of biases and norms.
        decay_norm_and_bias: See SSLModule.
        optimizer_args: None: AdamW's epsilon is 1e-6.
        schedule: See SSLModule.
        warmup_epochs: 10,000 steps of about 25,000 an epoch.
        kwargs: Optimization, see SSLModule.

    Raises:
        FileNotFoundError: ``weights`` is no folder of transformers.
        ValueError: an unknown size or layer, weights of another vocabulary, or (when the run starts) data with longer
            sequences or another tokenizer.
        ModuleNotFoundError: the extra ``text`` is not installed.
    """

    evaluation_settings: ClassVar[tuple[str, ...]] = ("features", "feature_layer")

    def __init__(
        self,
        vocab_size: int,
        mask_token: int,
        size: str | None = None,
        positions: int | None = None,
        whole_word: bool = False,
        mask_ratio: float = SHARE,
        position_init: Literal["normal", "sinusoidal"] = "normal",
        features: Literal["mean", "cls"] = "mean",
        feature_layer: int | str | list[int | str] | None = None,
        network_args: dict[str, Any] | None = None,
        weights: str | None = None,
        optimizer: str = "AdamW",
        lr: float = 1e-4,
        lr_rule: LRRule = "none",
        weight_decay: float = 0.01,
        decay_norm_and_bias: bool = False,
        optimizer_args: dict[str, Any] | None = None,
        schedule: Schedule = "linear",
        warmup_epochs: float = 0.4,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            lr=lr,
            lr_rule=lr_rule,
            weight_decay=weight_decay,
            decay_norm_and_bias=decay_norm_and_bias,
            optimizer_args={"eps": 1e-6} if optimizer_args is None and optimizer == "AdamW" else optimizer_args,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie in (0, 1), got {mask_ratio}")
        if position_init not in ("normal", "sinusoidal"):
            raise ValueError(f"position_init must be normal or sinusoidal, got {position_init!r}")
        self.tokenizer: WordPiece | None = None
        self.has_weights = weights is None
        if weights is None or network_args is not None:  # also of a checkpoint, which has the weights itself
            built = {**size_args(size or "base"), "max_position_embeddings": positions or 512, **(network_args or {})}
            whole = hf.build_bert({**built, "vocab_size": vocab_size})
            if position_init == "sinusoidal":
                table = whole.bert.embeddings.position_embeddings.weight
                sines = positions_of(table.shape[0], table.shape[1], table.device)
                with torch.no_grad():
                    table.copy_(sines * 0.5**0.5 * whole.config.initializer_range)
        else:
            if size is not None or positions is not None or position_init != "normal":
                raise ValueError(f"drop size, positions and position_init: {weights} says which they are")
            whole, self.tokenizer = hf.read_bert(weights), WordPiece(read(weights), weights)
            if whole.config.vocab_size != vocab_size:
                raise ValueError(
                    f"{weights} has a vocabulary of {whole.config.vocab_size}, the data one of {vocab_size}: give "
                    f"--data.tokenizer {weights}"
                )
            self.has_weights = True
            self.hparams["network_args"] = hf.values(whole.config)  # of which the checkpoint builds it again
        # under their names in transformers; the decoder's weights are the word embeddings
        self.bert, self.cls = whole.bert, whole.cls
        self.vocab_size, self.mask_token = vocab_size, mask_token
        self.whole_word, self.mask_ratio, self.features = whole_word, mask_ratio, features
        self.dim: int = whole.config.hidden_size
        self.layers = [EMBEDDINGS, *(f"layer.{i}" for i in range(whole.config.num_hidden_layers))]
        self.feature_layer = feature_layer
        asked = feature_layer if isinstance(feature_layer, list) else [feature_layer]
        self.feature_layers = [self.layer_name(layer) for layer in asked if layer is not None]
        metrics = {"pretext_mlm_loss": MeanMetric, "pretext_perplexity": Perplexity, "pretext_nsp_accuracy": MeanMetric}
        for stage in ("val", "test"):
            for name, metric in metrics.items():
                setattr(self, f"{stage}_{name}", metric(nan_strategy="disable"))

    @property
    def protocols(self) -> dict[str, str]:
        """What the method's own scores mean, see ResultsFile."""
        words = "whole words" if self.whole_word else "pieces"
        masked = f"bert-v1: held-out documents,15% of {words},vocabulary of {self.vocab_size}"
        pairs = "bert-v1: held-out documents,B random in half of the pairs or more"
        return {"pretext_mlm_loss": masked, "pretext_perplexity": masked, "pretext_nsp_accuracy": pairs}

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TextData) or data.pieces is None:
            return
        positions = self.bert.config.max_position_embeddings
        if data.max_tokens > positions:
            raise ValueError(
                f"sequences of {data.max_tokens} tokens do not fit {positions} positions: give --data.max_tokens "
                f"{positions}, or in a new run --model.positions {data.max_tokens}"
            )
        self.take_tokenizer(data.pieces, "the weights")

    def take_tokenizer(self, tokenizer: WordPiece, ours: str) -> None:
        """Keep the tokenizer.

        Raises:
            ValueError: there is one already, and it gives other numbers.
        """
        if self.tokenizer is not None and self.tokenizer.meaning != tokenizer.meaning:
            raise ValueError(f"the tokenizer of the data is not that of {ours}: give --data.tokenizer that one")
        self.tokenizer = tokenizer

    def on_fit_start(self) -> None:
        if not self.has_weights:
            raise ValueError(f"drop network_args: {self.hparams['weights']} says how its network is built")

    def outputs(self, tokens: Tensor, segment: Tensor, mask: Tensor) -> Any:
        """What transformers' BertModel gives, the outputs of every layer too."""
        attend = mask[:, None, None, :]  # of two dimensions it would be read, which waits for the device
        if self.bert.config._attn_implementation == "eager":  # adds it
            attend = torch.where(attend, 0.0, torch.finfo(torch.float32).min)
        return self.bert(tokens, attention_mask=attend, token_type_ids=segment, output_hidden_states=True)

    def layer_name(self, layer: int | str) -> str:
        """
        Raises:
            ValueError: there is no such layer.
        """
        blocks = self.layers[1:]
        if isinstance(layer, int) and -len(blocks) <= layer < len(blocks):
            return blocks[layer]
        if layer not in self.layers:
            raise ValueError(
                f"feature_layer {layer!r} is no layer of this BERT: take a place from {-len(blocks)} to "
                f"{len(blocks) - 1}, or {', '.join(self.layers)}"
            )
        return str(layer)

    def forward(self, x: TextBatch | Tensor) -> Tensor | dict[str, Tensor]:
        """A batch, or tokens (B, T) without padding -> features (B, D), by layer where ``feature_layer`` is a list."""
        if isinstance(x, Tensor):
            tokens, segment, mask = x, torch.zeros_like(x), torch.ones_like(x, dtype=torch.bool)
        else:
            tokens, segment, mask = x.tokens, x.segment, x.mask
        out = self.outputs(tokens, segment, mask)
        found = dict(zip(self.layers, out.hidden_states, strict=True))
        features = {name: self.pool(found[name], mask) for name in self.feature_layers or self.layers[-1:]}
        return features if isinstance(self.feature_layer, list) else next(iter(features.values()))

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Outputs (B, T, D) of a layer -> (B, D)."""
        if self.features == "cls":
            return hidden[:, 0]
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def masked(self, batch: TextBatch, masks: TokenMasks) -> tuple[Tensor, Tensor]:
        """
        Returns:
            Cross entropy of the chosen tokens (B, P) float32, 0 in slots that are not used; logits (B, 2) float32 of
            whether B follows A (0) or is random (1).
        """
        tokens = masks.replaced(batch.tokens, self.mask_token, self.vocab_size)
        out = self.outputs(tokens, batch.segment, batch.mask)
        chosen = out.last_hidden_state.gather(1, masks.position[..., None].expand(-1, -1, self.dim))  # (B, P, D)
        logits, random_next = self.cls(chosen, out.pooler_output)  # (B, P, V), (B, 2)
        target = batch.tokens.gather(1, masks.position)
        nats = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none")
        return nats.view_as(target) * masks.used, random_next.float()

    def training_step(self, batch: TextBatch, batch_idx: int) -> dict[str, Tensor]:
        u = self.uniform(batch.index, draws(batch.word.shape[1], self.mask_ratio))
        masks = choose(batch.word, u, self.whole_word, self.mask_ratio)
        masks = masks.to(batch.tokens.device)
        nats, random_next = self.masked(batch, masks)
        assert batch.random_next is not None
        mlm = nats.sum() / mean_count(masks.used.sum())
        nsp = F.cross_entropy(random_next, batch.random_next)
        accuracy = (random_next.argmax(1) == batch.random_next).float().mean()
        return {"loss": mlm + nsp, "mlm_loss": mlm, "nsp_loss": nsp, "nsp_accuracy": accuracy}

    def measure(self, batch: TextBatch, stage: str) -> Tensor | dict[str, Tensor] | None:
        """Features of sentences; of held-out pairs the scores, with the same masks at every epoch."""
        if batch.random_next is None:
            return self(batch)
        masks = choose(batch.word, uniform(batch.index, draws(batch.word.shape[1])), self.whole_word)
        masks = masks.to(batch.tokens.device)
        nats, random_next = self.masked(batch, masks)
        right = (random_next.argmax(1) == batch.random_next).float()
        for name in self.protocols:
            metric = getattr(self, f"{stage}_{name}")
            if name == "pretext_nsp_accuracy":
                metric(right)
            else:
                metric(nats[masks.used > 0])
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, add_dataloader_idx=False)
        return None

    def validation_step(
        self, batch: TextBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor | dict[str, Tensor] | None:
        return self.measure(batch, "val")

    def test_step(self, batch: TextBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor | dict[str, Tensor] | None:
        return self.measure(batch, "test")

    def predict_step(self, batch: TextBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor | dict[str, Tensor]:
        return self(batch)

    @property
    def attention_layers(self) -> int:
        """See GivesAttention."""
        layers: int = self.bert.config.num_hidden_layers
        return layers

    def attention(self, batch: TextBatch) -> list[Attention]:
        """Of every layer, each token to each other. See AttentionMaps."""
        usual = self.bert.config._attn_implementation
        self.bert.set_attn_implementation("eager")  # the others do not make the matrices
        attend = torch.where(batch.mask[:, None, None, :], 0.0, torch.finfo(torch.float32).min)
        out = self.bert(batch.tokens, attention_mask=attend, token_type_ids=batch.segment, output_attentions=True)
        self.bert.set_attn_implementation(usual)
        rows = [row[seen].tolist() for row, seen in zip(batch.tokens, batch.mask, strict=True)]
        words = [[self.tokenizer.piece(token) if self.tokenizer else str(token) for token in row] for row in rows]
        return [Attention("bert", {f"layer.{i}": w.float() for i, w in enumerate(out.attentions)}, words)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["ssl_lightning"]["bert"] = hf.values(self.bert.config)
        checkpoint["ssl_lightning"]["tokenizer"] = self.tokenizer and self.tokenizer.json

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.has_weights = True
        if (text := checkpoint["ssl_lightning"]["tokenizer"]) is not None:
            self.take_tokenizer(WordPiece(text, "the checkpoint's tokenizer"), "the checkpoint")
