"""Multi-head attention. Vaswani et al., Attention Is All You Need, 2017, section 3.2. https://arxiv.org/abs/1706.03762"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiHeadAttention(nn.Module):
    """Each of h heads compares queries with keys in d_k = dim / h dimensions of its own, and averages the values.

    Args:
        dim: Width D of queries, keys, values and output.
        num_heads: Number of heads h.

    Raises:
        ValueError: ``dim`` is no multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads, which is {num_heads}")
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        for matrix in self.parameters():
            nn.init.xavier_uniform_(matrix)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, h, T, d_k)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """
        Args:
            x: (B, Q, D), from which the queries come.
            memory: (B, K, D), from which keys and values come.
            mask: Bool, of a shape that broadcasts to (B, h, Q, K): True where a query may look.
            causal: Whether query i sees keys 0 to i only; without a mask.

        Returns:
            (B, Q, D).
        """
        q, k, v = self.split(self.query(x)), self.split(self.key(memory)), self.split(self.value(memory))
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(heads.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """softmax(Q K^T / sqrt(d_k)), the arguments being those of ``forward`` -> (B, h, Q, K) float32."""
        q, k = self.split(self.query(x)).float(), self.split(self.key(memory)).float()
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if causal:
            mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=x.device).tril()
        return (scores if mask is None else scores.masked_fill(~mask, float("-inf"))).softmax(-1)
