"""Sequences out of a model that tells the next token: greedy, and by beam search."""

from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.batch import BOS, EOS, PAD

NextToken = Callable[[Tensor], Tensor]  # tokens (N, t) so far, the first is BOS -> logits (N, V) of the next


def log_probabilities(logits: Tensor) -> Tensor:
    """(N, V) logits -> float32 log-probabilities, with -inf where nothing may be said: PAD and BOS."""
    log_p = logits.float().log_softmax(-1)
    log_p[:, PAD] = log_p[:, BOS] = float("-inf")
    return log_p


def greedy(next_token: NextToken, batch: int, steps: int, device: torch.device) -> Tensor:
    """The likeliest token at every step.

    Args:
        next_token: Gives the logits of the next token.
        batch: Number of sequences B.
        steps: Most tokens of a sequence, EOS included.
        device: Where it is done.

    Returns:
        (B, steps) int64, PAD after EOS.
    """
    tokens = torch.full((batch, 1), BOS, device=device)
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    for _ in range(steps):
        new = log_probabilities(next_token(tokens)).argmax(-1).masked_fill(ended, PAD)
        tokens, ended = torch.cat([tokens, new[:, None]], dim=1), ended | (new == EOS)
    return tokens[:, 1:]


def beam_search(
    next_token: NextToken, batch: int, steps: int, device: torch.device, beam: int = 4, alpha: float = 0.6
) -> tuple[Tensor, Tensor]:
    """The best sequence Y found with ``beam`` hypotheses kept at every step, ended ones among them.

    The score is log P(Y) / ((5 + |Y|) / 6)^alpha, |Y| counting EOS: Wu et al. 2016, https://arxiv.org/abs/1609.08144,
    equation 14, without coverage. All hypotheses of all sequences make one batch. The host asks once a step whether all
    have ended.

    Args:
        next_token: Gives the logits of the next token for B * beam rows, those of one sequence next to one another.
        batch: Number of sequences B.
        steps: Most tokens of a sequence, EOS included.
        device: Where it is done.
        beam: Hypotheses a sequence; 1 is the greedy search.
        alpha: Strength of the length penalty, 0 for none.

    Returns:
        (B, n) int64 tokens, n at most ``steps``, PAD after EOS, and (B,) float32 log P(Y).
    """
    tokens = torch.full((batch, beam, 1), BOS, device=device)
    log_p = torch.full((batch, beam), float("-inf"), device=device)
    log_p[:, 0] = 0.0  # at first there is one hypothesis
    length = torch.zeros(batch, beam, device=device)
    ended = torch.zeros(batch, beam, dtype=torch.bool, device=device)
    for _ in range(steps):
        new = log_probabilities(next_token(tokens.flatten(0, 1))).unflatten(0, (batch, beam))  # (B, k, V)
        vocabulary = new.shape[-1]
        stay = torch.full_like(new[0, 0], float("-inf"))
        stay[PAD] = 0.0  # all that follows an end
        total = log_p[..., None] + torch.where(ended[..., None], stay, new)
        longer = length + ~ended
        score = total / ((5 + longer) / 6).pow(alpha)[..., None]
        best = score.flatten(1).topk(beam).indices  # (B, k) among k V
        parent, token = best // vocabulary, best % vocabulary
        log_p, length = total.flatten(1).gather(1, best), longer.gather(1, parent)
        tokens = torch.cat([tokens.take_along_dim(parent[..., None], 1), token[..., None]], dim=2)
        ended = ended.gather(1, parent) | (token == EOS)
        if bool(ended.all()):
            break
    return tokens[:, 0, 1:], log_p[:, 0]  # topk sorts
