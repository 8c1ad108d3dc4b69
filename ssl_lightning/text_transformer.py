"""CLIP's text encoder: a causal Transformer whose output is taken at the end token.

Radford et al., 2021, https://arxiv.org/abs/2103.00020, section 2.4 and the authors' code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the activation of OpenAI's weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Causal self-attention, with the parameter names of nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, quick_gelu: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.act = QuickGELU() if quick_gelu else nn.GELU()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.act(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), MLP(width, quick_gelu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick_gelu) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class TextTransformer(nn.Module):
    """Tokens (B, T) -> (B, embed_dim), not normalised.

    Our own, in open_clip's parameter names, and not transformers' CLIPTextModel: a run on images and captions then
    needs no further library, the file is shorter than the settings of theirs, and what it loads from either is tested
    to be equal.

    Args:
        vocab_size: Pieces of the tokenizer.
        max_tokens: The longest sequence.
        end_token: Number of the end token, where the output is taken: at the first one, whatever the padding.
        embed_dim: Width of the output.
        width: Width of the Transformer.
        layers: Its blocks.
        heads: Its heads.
        quick_gelu: Activation of OpenAI's weights, in place of GELU.

    Raises:
        ValueError: ``width`` is no multiple of ``heads``.
    """

    def __init__(
        self,
        vocab_size: int,
        max_tokens: int,
        end_token: int,
        embed_dim: int,
        width: int,
        layers: int,
        heads: int,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"text_width must be a multiple of text_heads, got {width} and {heads}")
        self.end_token = end_token
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(max_tokens, width))
        self.transformer = Blocks(width, layers, heads, quick_gelu)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        for block in self.transformer.resblocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=(2 * layers * width) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=(2 * layers * width) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(self.transformer(x))  # (B, T, width)
        end = (tokens == self.end_token).int().argmax(1)  # the first; 0 where there is none
        x = x.gather(1, end[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        return x @ self.text_projection
