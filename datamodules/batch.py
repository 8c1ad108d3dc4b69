"""What travels from the data to the methods and callbacks: one type for each kind of data."""

from typing import NamedTuple

from torch import Tensor

from datamodules.video import Video


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


class TaggedBatch(NamedTuple):
    """A training batch of B images, each with one or more tags.

    Args:
        image: (B, C, H, W) uint8, as stored.
        label: (B,) int64 class numbers, -1 where there is none.
        index: (B,) int64 places in the data set, kept on the CPU: the random draws come from them.
        tags: (B, K) int64 numbers of tags, none twice in a row; filled with -1.
        views: float32 tensors (B, C, size, size) in [0, 1], none before the datamodule has made them.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    tags: Tensor
    views: tuple[Tensor, ...] = ()


PAD, BOS, EOS, UNKNOWN = range(4)  # token numbers that stand for no word; words follow


class PairBatch(NamedTuple):
    """A batch of B pairs of token sequences, each ended by EOS and filled with PAD to the longest of the batch.

    Args:
        source: (B, S) int64 token numbers.
        target: (B, T) int64 token numbers.
        label: (B,) int64 class numbers, -1 where there is none.
        index: (B,) int64 places in the data set, kept on the CPU.
    """

    source: Tensor
    target: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs


class TextBatch(NamedTuple):
    """A batch of B sequences of T tokens: [CLS] sentence [SEP], or pairs, [CLS] A [SEP] B [SEP]; padded at the end.

    Args:
        tokens: (B, T) int64 numbers of tokens.
        segment: (B, T) int64: 1 from B to its [SEP], else 0.
        mask: (B, T) bool, False where the sequence is padded.
        word: (B, T) int64, kept on the CPU: the place in the sequence of the word that a token is a piece of; -1 of
            [CLS] and [SEP], -2 where the sequence is padded. What to mask is chosen from it.
        label: (B,) int64 class numbers, -1 where there is none.
        index: (B,) int64 places in the data set, kept on the CPU: random draws come from them.
        random_next: (B,) int64 of pairs: 1 where B is from another document, 0 where it follows A. None of sentences.
    """

    tokens: Tensor
    segment: Tensor
    mask: Tensor
    word: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    random_next: Tensor | None = None


class VideoBatch(NamedTuple):
    """A training batch of B windows, each of F frames of a video: the same place in all of them.

    Args:
        frames: (B, F, C, S, S) uint8 as read; float32 in [0, 1] once the datamodule has them on the device. The first
            is the template, the target in its middle.
        box: (B, F, 4) float32: x, y, width and height of the annotated box in pixels of the window, zeros where there
            is none.
        index: (B,) int64 places in the data set, kept on the CPU: the random draws come from them.
    """

    frames: Tensor
    box: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs


class DetectionBatch(NamedTuple):
    """A batch of B images and the objects annotated in them, N at most.

    Args:
        image: (B, C, S, S) uint8 as read; float32 in [0, 1] once the datamodule has them on the device.
        box: (B, N, 4) float32: x1, y1, x2, y2 of each object in pixels of the image; x1 = 0 is the left edge of the
            first column, x2 = S the right edge of the last one. Zeros where an image has fewer objects.
        label: (B, N) int64 class numbers, -1 where an image has fewer objects.
        ignored: (B, N) bool: objects that are not learned, and in evaluation neither found nor missed.
        index: (B,) int64 places in the data set, kept on the CPU: the random draws come from them.
    """

    image: Tensor
    box: Tensor
    label: Tensor
    ignored: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs


class SequenceBatch(NamedTuple):
    """Annotated videos for an evaluation, read frame by frame.

    Args:
        videos: As many as this process has in this batch: one, or none.
        index: Their places in the data set.
    """

    videos: list[Video]
    index: list[int]  # type: ignore[assignment]  # hides tuple.index, which nobody needs
