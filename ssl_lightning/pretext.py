"""The class of methods with a pretext task that can be measured on held-out images."""

from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import MeanMetric

from datamodules.batch import ImageBatch
from ssl_lightning.base import ImageModule


class PretextModule(ImageModule):
    """Learns a task that it makes of the image alone.

    A method gives `scores` and says what they are in ``score_name``, and of which task in ``task``, which stands in the
    table of results. Logs ``val/pretext_<score_name>`` and ``test/pretext_<score_name>``, the mean over the held-out
    images.

    Args:
        kwargs: Backbone and optimization, see ImageModule and SSLModule.
    """

    score_name: ClassVar[str]
    task: str

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val_score, self.test_score = (MeanMetric(nan_strategy="disable") for _ in range(2))

    def scores(self, batch: ImageBatch) -> Tensor:
        """How well the task is done: float (N,), of as many images each as of any other.

        Draws are ``uniform(batch.index, n)`` of datamodules.draws: the same task for an image at every epoch.
        """
        raise NotImplementedError

    @property
    def protocols(self) -> dict[str, str]:
        """What the method's own score means, see ResultsFile."""
        return {f"pretext_{self.score_name}": self.task}

    def validation_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor | dict[str, Tensor]:
        self.measure(batch, dataloader_idx, "val", self.val_score)
        return super().validation_step(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor | dict[str, Tensor]:
        self.measure(batch, dataloader_idx, "test", self.test_score)
        return super().test_step(batch, batch_idx, dataloader_idx)

    def measure(self, batch: ImageBatch, dataloader_idx: int, stage: str, mean: MeanMetric) -> None:
        if dataloader_idx == 1:  # the queries; 0 is the bank
            mean(self.scores(batch))
            name = f"{stage}/pretext_{self.score_name}"
            self.log(name, mean, on_step=False, on_epoch=True, add_dataloader_idx=False)
