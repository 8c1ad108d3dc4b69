"""Zero-shot classification and retrieval, of a model whose embeddings are known."""

import json

import pytest
import torch
from torch.nn import functional as F

from callbacks import ResultsFile, Retrieval, ZeroShot
from callbacks.retrieval import image_ranks, text_ranks
from callbacks.zero_shot import class_embeddings
from tests.callbacks.tiny import TWO_PROCESSES, TinyData, TinyModel, trainer

NAMES = ["class 0", "class 1", "class 2", "class 3"]


def vector(text: str) -> torch.Tensor:
    """Some direction for a text."""
    generator = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(text)) % 2**31)
    return F.normalize(torch.randn(8, generator=generator), dim=0)


class Aligned(TinyModel):
    """Embeds each image where its colours are, and each text somewhere."""

    def image_embeddings(self, features):
        return F.normalize(features, dim=1)

    def text_embeddings(self, texts):
        return torch.stack([vector(text) for text in texts])


class Captioned(TinyData):
    """Images with 1, 2 or 3 captions."""

    def captions(self, images):
        return [[f"image {i}, text {j}" for j in range(i % 3 + 1)] for i in range(len(images))]


def test_prompts_are_meaned_on_the_sphere_whatever_their_order():
    templates = ["a {}.", "the {}", "{} and {}"]
    found = class_embeddings(Aligned(), NAMES, templates)
    for name, ours in zip(NAMES, found, strict=True):
        mean = sum(vector(t.format(name, name)) for t in templates) / 3
        torch.testing.assert_close(ours, mean / mean.norm())
    assert torch.equal(found, class_embeddings(Aligned(), NAMES, templates[::-1]))


def run(tmp_path, callback, data, **settings):
    torch.manual_seed(0)
    fit = trainer(tmp_path, callback, ResultsFile(), **settings)
    fit.test(Aligned(), data, verbose=False)
    return json.loads((tmp_path / "results.json").read_text())


def test_zero_shot_counts_the_nearest_names(tmp_path):
    data = TinyData(classes=6)
    results = run(tmp_path, ZeroShot(templates=["a {}"]), data)
    torch.manual_seed(0)
    model = Aligned()
    queries = data.sets[1][list(range(23))]
    with torch.no_grad():
        features = model.image_embeddings(model(queries.image.float() / 255))
    classes = torch.stack([vector(f"a {name}") for name in data.class_names])
    order = (features @ classes.T).argsort(1, descending=True)
    top1 = (order[:, 0] == queries.label).float().mean().item()
    top5 = (order[:, :5] == queries.label[:, None]).any(1).float().mean().item()
    assert 0 < top1 < top5 < 1
    assert results["metrics"] == {"test/zeroshot_top1": pytest.approx(top1), "test/zeroshot_top5": pytest.approx(top5)}
    assert results["protocols"]["test/zeroshot_top1"].startswith("zeroshot-v1: 'a {}',6 names,prompts ")
    other = run(tmp_path, ZeroShot(templates=["one {}"]), data)
    assert other["protocols"] != results["protocols"]


def test_the_embeddings_of_class_names_classify_perfectly(tmp_path):
    class Perfect(Aligned):
        def image_embeddings(self, features):
            return F.normalize(features, dim=1)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return torch.stack([vector(f"a photo of a {NAMES[i]}.") for i in batch.label.tolist()])

        test_step = validation_step

    (scores, *_) = trainer(tmp_path, ZeroShot()).validate(Perfect(), TinyData(), verbose=False)
    assert scores == {"val/zeroshot_top1": 1.0}


def ranks_by_hand(image, text, owner):
    """One image and one caption at a time."""
    of_image, of_text = [], []
    for i, u in enumerate(image):
        best = max(float(u @ v) for v, o in zip(text, owner, strict=True) if o == i)
        of_image.append(sum(float(u @ v) >= best for v, o in zip(text, owner, strict=True) if o != i))
    for v, o in zip(text, owner, strict=True):
        of_text.append(sum(float(u @ v) >= float(image[o] @ v) for i, u in enumerate(image) if i != o))
    return of_image, of_text


def test_ranks_are_those_counted_by_hand(monkeypatch):
    monkeypatch.setattr("callbacks.retrieval.CHUNK", 4)
    image = F.normalize(torch.randn(11, 5, dtype=torch.float64), dim=1)
    owner = torch.tensor([i for i in range(11) for _ in range(i % 3 + 1)])
    text = F.normalize(image[owner] + torch.randn(len(owner), 5, dtype=torch.float64), dim=1)
    of_image, of_text = ranks_by_hand(image, text, owner.tolist())
    assert max(of_image) > 1
    assert image_ranks(image, text, owner).tolist() == of_image
    assert text_ranks(image, text, owner).tolist() == of_text


def test_equal_embeddings_find_nothing():
    image, text, owner = torch.ones(30, 2), torch.ones(60, 2), torch.arange(60) // 2
    assert image_ranks(image, text, owner).min() == 58
    assert text_ranks(image, text, owner).min() == 29


def expected_recall(data):
    torch.manual_seed(0)
    model = Aligned()
    with torch.no_grad():
        image = model.image_embeddings(model(data.sets[1][list(range(23))].image.float() / 255))
    captions = data.captions(data.sets[1])
    owner = [i for i, of_one in enumerate(captions) for _ in of_one]
    of_image, of_text = ranks_by_hand(image, torch.stack([vector(t) for of in captions for t in of]), owner)
    found = {}
    for way, ranks in {"i2t": of_image, "t2i": of_text}.items():
        for k in (1, 5, 10):
            found[f"test/retrieval_{way}_r{k}"] = pytest.approx(sum(r < k for r in ranks) / len(ranks))
    return found


@pytest.mark.parametrize("labelled", [True, False])
def test_retrieval_counts_several_captions_right(labelled, tmp_path):
    data = Captioned(labelled=labelled)
    results = run(tmp_path, Retrieval(), data)
    assert results["metrics"] == expected_recall(data)
    assert 0 < results["metrics"]["test/retrieval_t2i_r10"] < 1
    captions = sum(i % 3 + 1 for i in range(23))
    assert results["protocols"]["test/retrieval_i2t_r5"] == (
        f"retrieval-v1: 23 images,{captions} captions,ties are misses,eval mode"
    )


def test_retrieval_on_two_processes_is_that_on_one(tmp_path):
    data = Captioned()
    assert run(tmp_path, Retrieval(), data, **TWO_PROCESSES)["metrics"] == expected_recall(data)


def test_evaluating_does_not_change_training(tmp_path):
    def weights(*callbacks):
        torch.manual_seed(0)
        model = Aligned()
        trainer(tmp_path, *callbacks).fit(model, Captioned())
        return model.net.weight

    assert torch.equal(weights(), weights(ZeroShot(), Retrieval()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"class_names": []}, "there are no class names"),
        ({"class_names": ["cat", " "]}, "the name of class 1 is empty"),
        ({"templates": []}, "there is no template"),
        ({"templates": ["a photo"]}, r"'a photo' has no \{\} where the name goes"),
    ],
)
def test_wrong_prompts(arguments, words):
    with pytest.raises(ValueError, match=words):
        ZeroShot(**arguments)


def test_a_wrong_pairing_is_said_at_the_start(tmp_path):
    with pytest.raises(ValueError, match="ZeroShot needs a method that embeds images and texts, such as CLIP: Tiny"):
        trainer(tmp_path, ZeroShot()).validate(TinyModel(), TinyData())
    with pytest.raises(ValueError, match=r"2 class_names for 4 classes: class 0, class 1, class 2, class 3 \.\.\."):
        trainer(tmp_path, ZeroShot(["a", "b"])).validate(Aligned(), TinyData())
    with pytest.raises(ValueError, match=r"Retrieval needs images with captions, .* TinyData has none"):
        trainer(tmp_path, Retrieval()).validate(Aligned(), TinyData())
    layered = Aligned()
    layered.feature_layers = ["net"]
    with pytest.raises(ValueError, match="reads the last features"):
        trainer(tmp_path, Retrieval()).validate(layered, Captioned())
