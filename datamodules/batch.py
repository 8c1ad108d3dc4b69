"""What travels from the data to the methods and callbacks: one type for each kind of data."""

from typing import NamedTuple

from torch import Tensor


class ImageBatch(NamedTuple):
    """A batch of B images.

    Args:
        image: (B, C, H, W) uint8, as stored.
        label: (B,) int64 class numbers, -1 where there is none.
        index: (B,) int64 places in the data set, kept on the CPU: the random draws of views come from them.
        views: float32 tensors (B, C, size, size) in [0, 1]: the augmented views in training, one plain view in
            evaluation, none before the datamodule has made them.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    views: tuple[Tensor, ...] = ()


class ImageTextBatch(NamedTuple):
    """A training batch of B images, each with one of its captions.

    Args:
        image: (B, C, H, W) uint8, as stored.
        label: (B,) int64 class numbers, -1 where there is none.
        index: (B,) int64 places in the data set, kept on the CPU: the random draws come from them.
        tokens: (B, T) int64 numbers of tokens: the start, the caption, the end, zeros.
        views: float32 tensors (B, C, size, size) in [0, 1], none before the datamodule has made them.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    tokens: Tensor
    views: tuple[Tensor, ...] = ()
