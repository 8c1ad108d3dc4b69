"""Zero-shot classification: a class is what its name says."""

import zlib
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from callbacks.features import Features, FeatureScore

TEMPLATES = ("a photo of a {}.",)


@runtime_checkable
class AlignsText(Protocol):
    """What ZeroShot and Retrieval need of a method."""

    def image_embeddings(self, features: Tensor) -> Tensor:
        """The features of images (N, D) -> (N, E) float32, L2-normalised."""

    def text_embeddings(self, texts: list[str]) -> Tensor:
        """N texts -> (N, E) float32, L2-normalised, on the model's device."""


@runtime_checkable
class HasTemplates(Protocol):
    """Data that know how their pictures are spoken of."""

    templates: tuple[str, ...]


def check_aligned(callback: str, pl_module: LightningModule) -> None:
    """
    Raises:
        ValueError: the method has no embeddings of texts, or evaluates inner layers.
    """
    if not isinstance(pl_module, AlignsText):
        raise ValueError(
            f"{callback} needs a method that embeds images and texts, such as CLIP: {type(pl_module).__name__} does "
            "not, leave the callback out"
        )
    if getattr(pl_module, "feature_layers", None):
        raise ValueError(f"{callback} reads the last features: leave out --model.feature_layer, or the callback")


def check_prompts(class_names: list[str], templates: list[str]) -> None:
    """
    Raises:
        ValueError: there are no names, an empty one, no templates, or one without {}.
    """
    if not class_names:
        raise ValueError("there are no class names: give class_names, a list of words")
    if empty := [i for i, name in enumerate(class_names) if not name.strip()]:
        raise ValueError(f"the name of class {empty[0]} is empty")
    if not templates:
        raise ValueError('there is no template: give one such as "a photo of a {}."')
    for template in templates:
        if "{}" not in template:
            raise ValueError(f'the template {template!r} has no {{}} where the name goes, as in "a photo of a {{}}."')


def class_embeddings(model: AlignsText, class_names: list[str], templates: list[str]) -> Tensor:
    """(C, E): the prompts of each class, normalised, meaned, and normalised again. The order of templates does not
    matter."""
    prompts = [template.replace("{}", name) for name in class_names for template in sorted(templates)]
    embeddings = model.text_embeddings(prompts).unflatten(0, (len(class_names), len(templates)))
    return F.normalize(embeddings.mean(1), dim=1)


class ZeroShot(FeatureScore):
    """Accuracy of naming the queries: the class whose prompts' mean embedding is nearest (Radford et al. 2021, section
    3.1). Logs `val/zeroshot_top1`, and `top5` where there are more than five classes. Runs on any labelled images.

    Args:
        class_names: A name for each class, in the order of the data's. None: theirs.
        templates: Sentences with {} in place of the name. None: those of the data where they have some, else "a photo
            of a {}.".
        every_n_epochs: Epochs between two scores during `fit`, 0 for none; `validate` and `test` always score.
        name: In the metrics' names; None for "zeroshot".

    Raises:
        ValueError: no names, another number of names than classes, a template without {}, or, when the run starts, a
            method without embeddings of texts.
    """

    kind = "zeroshot"

    def __init__(
        self,
        class_names: list[str] | None = None,
        templates: list[str] | None = None,
        every_n_epochs: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(every_n_epochs, name=name)
        if class_names is not None or templates is not None:
            check_prompts(["a"] if class_names is None else class_names, ["{}"] if templates is None else templates)
        self.class_names, self.templates = class_names, templates
        self._names: list[str] = []
        self._sentences: list[str] = []
        self._model: Any = None

    @property
    def protocol(self) -> str:
        said = self._sentences[0] if len(self._sentences) == 1 else f"{len(self._sentences)} templates"
        key = zlib.crc32("\n".join([*self._names, *sorted(self._sentences)]).encode())
        return f"zeroshot-v1: {said!r},{len(self._names)} names,prompts {key:08x},eval mode"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        check_aligned("ZeroShot", pl_module)
        data = getattr(trainer, "datamodule", None)
        theirs: list[str] = list(getattr(data, "class_names", []))
        sentences = data.templates if isinstance(data, HasTemplates) else TEMPLATES
        self._names = theirs if self.class_names is None else self.class_names
        self._sentences = list(sentences if self.templates is None else self.templates)
        if self.class_names is not None and theirs and len(self.class_names) != len(theirs):
            raise ValueError(
                f"{len(self.class_names)} class_names for {len(theirs)} classes: {', '.join(theirs[:5])} ..."
            )
        if self._names:
            check_prompts(self._names, self._sentences)

    def on_features(self, trainer: Trainer, pl_module: LightningModule, bank: Features, query: Features) -> None:
        self._model = pl_module
        super().on_features(trainer, pl_module, bank, query)
        self._model = None

    def score(self, bank: Features, query: Features) -> dict[str, Tensor | float]:
        classes = class_embeddings(self._model, self._names, self._sentences)
        similar = self._model.image_embeddings(query.features.to(classes.device)) @ classes.T  # (N, C)
        k = 5 if len(self._names) > 5 else 1
        hits = similar.topk(k).indices == query.label.to(classes.device)[:, None]
        scores: dict[str, Tensor | float] = {"top1": hits[:, 0].float().mean()}
        return scores | ({"top5": hits.any(1).float().mean()} if k == 5 else {})
