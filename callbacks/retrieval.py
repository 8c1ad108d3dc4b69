"""Finding the caption of an image among all captions, and the image of a caption among all images."""

from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.features import Features, FeatureScore, gather
from callbacks.zero_shot import AlignsText, check_aligned
from datamodules.loader import Loader, rank_and_world

RANKS = (1, 5, 10)
CHUNK = 1000  # images or captions that are compared at a time


@runtime_checkable
class HasCaptions(Protocol):
    """Data whose images have captions."""

    def captions(self, images: Any) -> list[list[str]]:
        """The captions of each image of a set, in the order of the images' `index`."""


def image_ranks(image: Tensor, text: Tensor, owner: Tensor) -> Tensor:
    """(N,) int64, for each image the number of others' captions that are not less similar than its best own one.

    Args:
        image: (N, E) embeddings.
        text: (M, E) embeddings of captions, several of an image.
        owner: (M,) int64 rows of the captions' images.
    """
    found = []
    for first in range(0, len(image), CHUNK):
        similar = image[first : first + CHUNK] @ text.T  # (n, M)
        own = owner == torch.arange(first, first + len(similar), device=owner.device)[:, None]
        best = similar.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        found.append(((similar >= best) & ~own).sum(1))
    return torch.cat(found)


def text_ranks(image: Tensor, text: Tensor, owner: Tensor) -> Tensor:
    """(M,) int64, for each caption the number of other images not less similar than its own, see image_ranks."""
    found = []
    for rows, mine in zip(text.split(CHUNK), owner.split(CHUNK), strict=True):
        similar = rows @ image.T  # (m, N)
        found.append((similar >= similar.gather(1, mine[:, None])).sum(1) - 1)
    return torch.cat(found)


class Retrieval(FeatureScore):
    """Recall at 1, 5 and 10 of the queries: `val/retrieval_i2t_r1`, ..., the share of images of which one caption at
    least is among the nearest k of all captions, and `val/retrieval_t2i_r1`, ..., the share of captions whose image is
    among the nearest k. A tie counts as a miss, so that collapsed embeddings score nothing.

    Args:
        every_n_epochs: Epochs between two scores during `fit`, 0 for none; `validate` and `test` always score.
        name: In the metrics' names; None for "retrieval".

    Raises:
        ValueError: when the run starts, a method without embeddings of texts, or data without captions.
    """

    kind = "retrieval"
    needs_labels = False
    progress_bar = ("i2t_r1",)

    def __init__(self, every_n_epochs: int = 1, name: str | None = None) -> None:
        super().__init__(every_n_epochs, name=name)
        self._embedded: tuple[Tensor, Tensor, Tensor] | None = None
        self._size = (0, 0)

    @property
    def protocol(self) -> str:
        return "retrieval-v1: {} images,{} captions,ties are misses,eval mode".format(*self._size)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        check_aligned("Retrieval", pl_module)
        if not isinstance(data := getattr(trainer, "datamodule", None), HasCaptions):
            raise ValueError(
                f"Retrieval needs images with captions, such as ImageTextCSV: {type(data).__name__} has none, leave "
                "the callback out"
            )

    def on_features(self, trainer: Trainer, pl_module: LightningModule, bank: Features, query: Features) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        loader: Loader = loaders[1]
        captions: list[list[str]] = data.captions(loader.dataset)
        asked = [captions[i] for i in query.index.tolist()]
        texts = [text for of_one in asked for text in of_one]
        owner = torch.tensor([row for row, of_one in enumerate(asked) for _ in of_one])
        rank, world = rank_and_world()
        mine = torch.arange(rank, len(texts), world)
        assert isinstance(pl_module, AlignsText)
        rows = []
        if len(mine):
            embedded = pl_module.text_embeddings([texts[i] for i in mine.tolist()])
            rows = [Features(embedded, owner[mine].to(embedded.device), mine.to(embedded.device))]
        text = gather(pl_module, rows)
        image = pl_module.image_embeddings(query.features.to(text.features.device))
        self._embedded, self._size = (image, text.features, text.label), (len(image), len(texts))
        super().on_features(trainer, pl_module, bank, query)
        self._embedded = None

    def score(self, bank: Features, query: Features) -> dict[str, Tensor | float]:
        assert self._embedded is not None
        scores: dict[str, Tensor | float] = {}
        for way, ranks in {"i2t": image_ranks(*self._embedded), "t2i": text_ranks(*self._embedded)}.items():
            scores |= {f"{way}_r{k}": (ranks < k).float().mean() for k in RANKS}
        return scores
