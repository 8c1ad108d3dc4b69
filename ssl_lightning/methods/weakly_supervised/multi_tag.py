"""Exploring the Limits of Weakly Supervised Pretraining.

Mahajan, Girshick, Ramanathan, He, Paluri, Li, Bharambe, van der Maaten, 2018. https://arxiv.org/abs/1805.00932
After: Learning Visual Features from Large Weakly Supervised Data. Joulin, van der Maaten, Jabri, Vasilache, 2015.
https://arxiv.org/abs/1511.02251
"""

from typing import Any

from torch import Tensor, nn

from datamodules.batch import TaggedBatch
from ssl_lightning.base import ImageModule
from ssl_lightning.losses import tag_cross_entropy
from ssl_lightning.schedules import Schedule

MILESTONES = tuple(k / 11 for k in range(1, 11))


class MultiTag(ImageModule):
    """Which tags have people given the image?

    One softmax over all tags, whose target is 1/k for each of the k tags of an image; a sigmoid for each tag, which
    takes every missing one for a negative, was significantly worse in the paper. The data, `ImageTagsCSV` or others
    with tags, show images with rare tags more often. Logs ``train/hit``, the share of images whose likeliest tag is one
    of theirs.

    Args:
        num_tags: Number of tags; the command line takes it from the data.
        optimizer: See SSLModule.
        lr: 0.1 for a batch of 256; the paper's has 8,064, with a warm-up.
        weight_decay: Of all parameters.
        schedule: See SSLModule.
        milestones: Evenly spaced, 10; the paper has 10 to 20.
        step_factor: The rate is halved at each.
        kwargs: Backbone and optimization, see ImageModule and SSLModule.

    Raises:
        ValueError: fewer than 2 tags.
    """

    def __init__(
        self,
        num_tags: int,
        optimizer: str = "SGD",
        lr: float = 0.1,
        weight_decay: float = 1e-4,
        schedule: Schedule = "step",
        milestones: tuple[float, ...] = MILESTONES,
        step_factor: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            milestones=milestones,
            step_factor=step_factor,
            **kwargs,
        )
        if num_tags < 2:
            raise ValueError(f"num_tags must be at least 2, got {num_tags}")
        self.classifier = nn.Linear(self.backbone.dim, num_tags)

    def training_step(self, batch: TaggedBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self.classifier(self.backbone(batch.views[0]))  # (B, num_tags)
        hit = (batch.tags == logits.argmax(1, keepdim=True)).any(1).float().mean()
        return {"loss": tag_cross_entropy(logits, batch.tags), "hit": hit}
