"""The network of Vaswani et al., Attention Is All You Need, 2017, sections 3.1 to 3.5. https://arxiv.org/abs/1706.03762"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.batch import PAD
from ssl_lightning.attention import MultiHeadAttention


def positions(length: int, dim: int, device: torch.device) -> Tensor:
    """Section 3.5: (length, dim) float32, sine and cosine of pos / 10000^(2i / dim) by turns."""
    frequency = 10000 ** (-torch.arange(0, dim, 2, device=device) / dim)  # (dim / 2,)
    angle = torch.arange(length, device=device)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def feed_forward(dim: int, hidden_dim: int) -> nn.Sequential:
    """Section 3.3."""
    first, second = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second)


class EncoderLayer(nn.Module):
    """Section 3.1, each sub-layer as LayerNorm(x + Dropout(Sublayer(x)))."""

    def __init__(self, dim: int, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, num_heads)
        self.feed_forward = feed_forward(dim, hidden_dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attention(x, x, mask)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    """As the encoder's, with attention to the encoder's output in between; a token sees none that follows it."""

    def __init__(self, dim: int, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, num_heads)
        self.cross_attention = MultiHeadAttention(dim, num_heads)
        self.feed_forward = feed_forward(dim, hidden_dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attention(x, x, causal=True)))
        x = self.norm2(x + self.dropout(self.cross_attention(x, memory, mask)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class EncoderDecoder(nn.Module):
    """Reads a source, and tells the next token of a target at each of its places.

    Args:
        vocab_size: Number of tokens V, shared by source and target.
        dim: Width D, d_model.
        hidden_dim: Width within the feed-forward layers, d_ff.
        num_layers: Layers of the encoder, and of the decoder.
        num_heads: Heads of each attention.
        dropout: Of each sub-layer's output and of the embedded tokens, section 5.4.
    """

    def __init__(
        self, vocab_size: int, dim: int, hidden_dim: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)  # of source, target and softmax: section 3.4
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        sizes = (dim, hidden_dim, num_heads, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(num_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, D)."""
        x = self.embedding(tokens)
        dim = x.shape[2]
        return self.dropout(x * dim**0.5 + positions(tokens.shape[1], dim, x.device).to(x.dtype))

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) int64 -> the memory (B, S, D), and the mask of what may be seen of it (B, 1, 1, S)."""
        mask = (source != PAD)[:, None, None]
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return x, mask

    def decode(self, tokens: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(B, T) int64, the target so far, and the encoded source -> logits (B, T, V) of the token after each."""
        x = self.embed(tokens)
        for layer in self.decoder:
            x = layer(x, memory, mask)
        return F.linear(x, self.embedding.weight)

    def forward(self, source: Tensor, tokens: Tensor) -> Tensor:
        """(B, S) and (B, T) int64, the target from BOS on -> logits (B, T, V)."""
        return self.decode(tokens, *self.encode(source))
