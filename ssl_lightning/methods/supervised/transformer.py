"""Attention Is All You Need.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, 2017. https://arxiv.org/abs/1706.03762
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric

from callbacks.attention_maps import Attention, read_attention
from datamodules.batch import BOS, EOS, PAD, UNKNOWN, PairBatch
from datamodules.pairs_file import NO_WORDS, padded, tokens_of
from ssl_lightning.base import SSLModule
from ssl_lightning.decoding import beam_search, greedy
from ssl_lightning.distributed import mean_count
from ssl_lightning.encoder_decoder import EncoderDecoder
from ssl_lightning.schedules import LRRule, Schedule

SCORES = {"token_accuracy": "true tokens before it given", "exact_match": "greedy decoding"}


@runtime_checkable
class NamesWords(Protocol):
    """A datamodule that knows its tokens by name."""

    words: list[str]


def smoothed_cross_entropy(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Section 5.4: against the target with ``smoothing`` of it spread evenly over all V tokens.

    Args:
        logits: (B, T, V).
        target: (B, T) int64; PAD is left out.
        smoothing: In [0, 1).

    Returns:
        () float32, the sum over the tokens divided by their number in the mean over processes.
    """
    with torch.autocast(logits.device.type, enabled=False):
        total = F.cross_entropy(
            logits.float().flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=smoothing, reduction="sum"
        )
    return total / mean_count((target != PAD).sum())


class Transformer(SSLModule):
    """An encoder reads the source, a decoder writes the target, token by token; both are made of attention.

    Learns from pairs of token sequences, PairBatch. The defaults are the base model; the big one has ``dim`` 1024,
    ``hidden_dim`` 4096, ``num_heads`` 16 and ``dropout`` 0.3. Features are the mean of the encoder's outputs. Logs
    ``val/token_accuracy`` and ``val/exact_match``, and those of ``test``: the share of tokens of held-out pairs that
    are right given the true ones before them, and of sequences that greedy decoding gets right as a whole.

    Args:
        vocab_size: Number of tokens, those that stand for no word included; the command line takes it from the data.
        dim: Width of embeddings and layers, d_model.
        hidden_dim: Width within the feed-forward layers, d_ff.
        num_layers: Layers of the encoder, and of the decoder.
        num_heads: Heads of each attention.
        dropout: Of each sub-layer's output and of the embedded tokens, in [0, 1).
        label_smoothing: Share of the target spread over all tokens, in [0, 1).
        optimizer: See SSLModule. Those named Adam... get the paper's betas and epsilon, section 5.3.
        lr: The highest rate; None: the paper's, (dim * warmup_steps)^-0.5.
        lr_rule: The paper's rate is for batches of 25,000 source and as many target tokens.
        weight_decay: The paper has none.
        schedule: ``inverse_sqrt`` after the warm-up is the paper's, equation 3.
        warmup_steps: See SSLModule.
        optimizer_args: See SSLModule.
        kwargs: Optimization, see SSLModule.

    Raises:
        ValueError: a size or a share is out of its range; when a run starts, the data have another vocabulary than the
            checkpoint.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int = 512,
        hidden_dim: int = 2048,
        num_layers: int = 6,
        num_heads: int = 8,
        dropout: float = 0.1,
        label_smoothing: float = 0.1,
        optimizer: str = "Adam",
        lr: float | None = None,
        lr_rule: LRRule = "none",
        weight_decay: float = 0.0,
        schedule: Schedule = "inverse_sqrt",
        warmup_steps: int = 4000,
        optimizer_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        adam = {"betas": [0.9, 0.98], "eps": 1e-9} if optimizer.startswith("Adam") else {}
        super().__init__(
            optimizer=optimizer,
            lr=(dim * max(1, warmup_steps)) ** -0.5 if lr is None else lr,
            lr_rule=lr_rule,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup_steps=warmup_steps,
            optimizer_args={**adam, **(optimizer_args or {})},
            **kwargs,
        )
        if vocab_size <= UNKNOWN:
            raise ValueError(f"vocab_size must be more than {UNKNOWN}, got {vocab_size}")
        for name, share in {"dropout": dropout, "label_smoothing": label_smoothing}.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {share}")
        self.dim, self.label_smoothing, self.num_layers = dim, label_smoothing, num_layers
        self.net = EncoderDecoder(vocab_size, dim, hidden_dim, num_layers, num_heads, dropout)
        self.words: list[str] = []  # of the data, kept in the checkpoint
        self.val_accuracy, self.test_accuracy = (MeanMetric(nan_strategy="disable") for _ in range(2))
        self.val_match, self.test_match = (MeanMetric(nan_strategy="disable") for _ in range(2))

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, NamesWords):
            self.use_words(data.words)

    def use_words(self, words: list[str]) -> None:
        if self.words and words and self.words != words:
            raise ValueError(
                "the model was trained with another vocabulary than that of the data, so its tokens would mean other "
                "words: give it the data that it was trained with"
            )
        self.words = words or self.words

    def logits(self, batch: PairBatch) -> Tensor:
        """(B, T, V) of each token of the target, given those before it."""
        return self.net(batch.source, F.pad(batch.target[:, :-1], (1, 0), value=BOS))

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        return smoothed_cross_entropy(self.logits(batch), batch.target, self.label_smoothing)

    def forward(self, x: Tensor) -> Tensor:
        """Source tokens (B, S) int64 -> features (B, D), the mean over the tokens of the encoder's outputs."""
        memory, _ = self.net.encode(x)
        weight = (x != PAD).to(memory.dtype)[..., None]
        return (memory * weight).sum(1) / weight.sum(1)

    @torch.no_grad()
    def decode(self, source: Tensor, steps: int, beam: int = 1, alpha: float = 0.6) -> Tensor:
        """The targets of source tokens (B, S) int64 -> at most ``steps`` tokens (B, T) int64, PAD after EOS.

        ``beam`` 1 is greedy; the paper takes 4, with a length penalty of ``alpha`` (section 6.1). See beam_search.
        """
        memory, mask = self.net.encode(source)
        memory, mask = memory.repeat_interleave(beam, 0), mask.repeat_interleave(beam, 0)

        def next_token(tokens: Tensor) -> Tensor:
            return self.net.decode(tokens, memory, mask)[:, -1]

        if beam == 1:
            return greedy(next_token, len(source), steps, source.device)
        return beam_search(next_token, len(source), steps, source.device, beam, alpha)[0]

    def translate(self, sentences: Sequence[Sequence[str]], beam: int = 4, alpha: float = 0.6) -> list[list[str]]:
        """Words to words, by the vocabulary of the data, at most 50 more than there are in the source (section 6.1).

        Call it in evaluation mode.

        Raises:
            ValueError: the model has seen no data that name their words.
        """
        if not self.words:
            raise ValueError("the model knows no words: train it on data that name them, such as PairsFile")
        source = padded(tokens_of(sentences, self.words)).to(self.device)
        said = self.decode(source, source.shape[1] + 50, beam, alpha).tolist()
        return [[self.name(token) for token in row if token not in (PAD, EOS)] for row in said]

    def name(self, token: int) -> str:
        return [*NO_WORDS, *self.words][token] if self.words else str(token)

    @property
    def protocols(self) -> dict[str, str]:
        """What the method's own scores mean, see ResultsFile."""
        return SCORES

    def evaluate(self, batch: PairBatch, stage: Literal["val", "test"]) -> Tensor:
        said = self.decode(batch.source, batch.target.shape[1])
        right = self.logits(batch).argmax(-1) == batch.target
        accuracy, match = (
            (self.val_accuracy, self.val_match) if stage == "val" else (self.test_accuracy, self.test_match)
        )
        accuracy(right[batch.target != PAD].float())
        match((said == batch.target).all(1).float())
        self.log(f"{stage}/token_accuracy", accuracy, on_step=False, on_epoch=True)
        self.log(f"{stage}/exact_match", match, on_step=False, on_epoch=True, prog_bar=True)
        return self(batch.source)

    def validation_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        return self.evaluate(batch, "val")

    def test_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        return self.evaluate(batch, "test")

    def predict_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        return self(batch.source)

    @property
    def attention_layers(self) -> int:
        """See GivesAttention."""
        return self.num_layers

    def attention(self, batch: PairBatch) -> list[Attention]:
        """Of every layer: encoder, decoder and, from decoder to encoder, cross. See AttentionMaps."""
        found = read_attention(self.net, lambda: self.logits(batch))
        source, target = (
            [[self.name(token) for token in row if token != PAD] for row in side.tolist()]
            for side in (batch.source, batch.target)
        )
        heard = [[self.name(BOS), *row[:-1]] for row in target]
        return [
            Attention(kind, {n: w for n, w in found.items() if n.startswith(begin) and n.endswith(end)}, rows, columns)
            for kind, begin, end, rows, columns in (
                ("encoder", "encoder", "self_attention", source, None),
                ("decoder", "decoder", "self_attention", heard, None),
                ("cross", "decoder", "cross_attention", target, source),
            )
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["ssl_lightning"]["words"] = self.words

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.use_words(checkpoint["ssl_lightning"]["words"])
