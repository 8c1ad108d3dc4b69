"""Which tokens of a sequence are hidden, and by what."""

from typing import NamedTuple

import torch
from torch import Tensor

SHARE = 0.15  # of the tokens of a sequence, [CLS] and [SEP] counted, as in the paper
HIDDEN, KEPT = 0.8, 0.1  # of the chosen ones: replaced by [MASK], left as they are; the others become random pieces


class TokenMasks(NamedTuple):
    """The chosen tokens of B sequences, in P slots each, of which the first are used.

    Args:
        position: (B, P) int64 different places in the sequence, those of unused slots too.
        used: (B, P) float32: 1 or 0.
        kind: (B, P) float32 in [0, 1): what becomes of the token, see `replaced`.
        piece: (B, P) float32 in [0, 1): which random piece takes its place.
    """

    position: Tensor
    used: Tensor
    kind: Tensor
    piece: Tensor

    def to(self, device: torch.device) -> "TokenMasks":
        """Without waiting for the device."""
        return TokenMasks(*(part.to(device, non_blocking=True) for part in self))

    def replaced(self, tokens: Tensor, mask_token: int, vocab_size: int) -> Tensor:
        """Sequences (B, T) with the chosen tokens hidden (8 in 10), as they are (1) or random (1)."""
        chosen = tokens.gather(1, self.position)
        # of the whole vocabulary, special and unused pieces too, as the authors
        piece = (self.piece * vocab_size).long().clamp(max=vocab_size - 1)  # the product may be rounded up
        new = torch.where(self.kind < HIDDEN, mask_token, torch.where(self.kind < HIDDEN + KEPT, chosen, piece))
        return tokens.scatter(1, self.position, torch.where(self.used > 0, new, chosen))


def slots(length: int, share: float = SHARE) -> int:
    """Slots for the chosen tokens of sequences of this length."""
    return max(1, round(share * length))


def draws(length: int, share: float = SHARE) -> int:
    """Random numbers that `choose` takes for a sequence."""
    return length + 2 * slots(length, share)


def choose(word: Tensor, u: Tensor, whole_word: bool = False, share: float = SHARE) -> TokenMasks:
    """Choose a share of the tokens of each sequence, at least one, never [CLS], [SEP] or padding.

    With `whole_word` all pieces of a word or none: words in random order, those left out that would be too many.

    Args:
        word: (B, T) int64 on the CPU, see TextBatch.
        u: (B, draws(T, share)) float32 in [0, 1) on the CPU.
        whole_word: Whether words are chosen rather than pieces.
        share: Of the tokens of a sequence, in (0, 1).
    """
    length, most = word.shape[1], slots(word.shape[1], share)
    wanted = (share * (word > -2).sum(1)).round().long().clamp(min=1)  # (B,)
    order, kind, piece = u.split([length, most, most], 1)
    real = word >= 0
    if whole_word:
        sizes = torch.zeros_like(word).scatter_add_(1, word.clamp(min=0), real.long())  # of word 0, 1, ...; then 0
        words = order.masked_fill(sizes == 0, 2).argsort(dim=1, stable=True)  # in random order
        taken, count = torch.zeros_like(real), torch.zeros_like(wanted)
        for place in words.unbind(1):
            size = sizes.gather(1, place[:, None])[:, 0]
            fits = (size > 0) & (count + size <= wanted)
            taken.scatter_(1, place[:, None], fits[:, None])
            count += torch.where(fits, size, 0)
        chosen = real & taken.gather(1, word.clamp(min=0))
    else:
        first = order.masked_fill(~real, 2).argsort(dim=1, stable=True)[:, :most]
        chosen = torch.zeros_like(real).scatter(1, first, torch.arange(most) < wanted[:, None]) & real
    position = (~chosen).long().argsort(dim=1, stable=True)[:, :most]
    return TokenMasks(position, chosen.gather(1, position).float(), kind, piece)
