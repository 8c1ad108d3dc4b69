"""Captioned digits that come with scikit-learn: the image-text data that need no download."""

from typing import Any

from datamodules.digits import Digits
from datamodules.image_text import ImageTextData
from datamodules.sets import Images, whole

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a photo of the number {}.",
    "the digit {}",
    "a handwritten {}",
    "someone has written a {} here",
    "{}, scanned from paper",
)


class DigitsText(ImageTextData, Digits):
    """The images of `Digits`, each with five captions in which its number stands as a word.

    Args:
        max_tokens: Length of a caption in tokens.
        kwargs: Captions and images, see ImageTextData and Digits.
    """

    default_vocab_size = 512
    templates = TEMPLATES

    def __init__(self, max_tokens: int = 24, **kwargs: Any) -> None:
        super().__init__(max_tokens=max_tokens, **kwargs)
        self.class_names = list(WORDS)

    def captions(self, images: Images) -> list[list[str]]:
        return [[template.format(WORDS[label]) for template in TEMPLATES] for label in whole(images).labels]
