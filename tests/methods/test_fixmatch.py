import math
from dataclasses import replace

import pytest
import torch

from datamodules import DigitsTags, DigitsText, Photos
from datamodules.batch import ImageBatch
from datamodules.views import FixMatchViews
from ssl_lightning.methods import Classifier, FixMatch
from ssl_lightning.schedules import lr_factor
from tests.methods.tiny import data, make, trainer


def batch(labelled=4, unlabelled=8):
    image = torch.randint(256, (labelled + unlabelled, 3, 16, 16), dtype=torch.uint8)
    label = torch.tensor([*range(labelled), *[-1] * unlabelled])
    index = torch.arange(len(image))
    return ImageBatch(image, label, index, FixMatchViews()(image, index, 16, 0, 0))


@pytest.mark.parametrize("sure", [0, 3, 8])
def test_the_loss_is_that_of_the_equations(sure):
    """Equations 3 and 4, image by image, in float64; both terms are divided by all images of their kind."""
    model, of = make(FixMatch, unlabelled_weight=0.5).double(), batch()
    of = of._replace(views=tuple(view.double() for view in of.views))
    with torch.no_grad():
        features = model.backbone(torch.cat(of.views))
        logits = (features @ model.classifier.weight.T + model.classifier.bias).tolist()
    p = [[math.exp(v) / sum(math.exp(w) for w in row) for v in row] for row in logits]
    weak, strong = p[:12], p[12:]
    at_most = sorted((max(row) for row in weak[4:]), reverse=True)
    model.threshold = at_most[sure - 1] - 1e-9 if sure else 1.0
    with torch.no_grad():
        terms = model.training_step(of, 0)
    supervised = -sum(math.log(weak[i][i]) for i in range(4)) / 4
    told = [(row, other) for row, other in zip(weak[4:], strong[4:], strict=True) if max(row) >= model.threshold]
    unsupervised = -sum(math.log(other[row.index(max(row))]) for row, other in told) / 8
    assert terms["sure"].item() == pytest.approx(sure / 8)
    assert terms["supervised"].item() == pytest.approx(supervised, rel=1e-5)
    assert terms["unsupervised"].item() == pytest.approx(unsupervised, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(supervised + 0.5 * unsupervised, rel=1e-5)


def test_no_gradient_reaches_the_network_by_a_pseudo_label():
    """With nothing but the second term and one strong view for all, the weak views of the unlabelled have none."""
    model, of = make(FixMatch, backbone_args={"width": 4, "norm": "none"}), batch()
    weak = of.views[0].clone().requires_grad_()
    model.training_step(of._replace(views=(weak, of.views[1])), 0)["unsupervised"].backward()
    assert not weak.grad.any()


def test_the_pool_has_the_labelled_images_too_and_none_of_its_labels(tmp_path):
    images = data(FixMatch)
    run = trainer(tmp_path, max_steps=1)
    run.fit(make(FixMatch), images)
    loader = images.train_dataloader()
    assert len(images._ready().bank) == 2 * 20
    assert loader.sampler.n == len(images._ready().train) > 40
    first = next(iter(loader))
    assert (first.label[:16] >= 0).all()
    assert first.label[16:].tolist() == [-1] * 32
    seen = {row for rows in loader.sampler for row in rows[16:]}
    assert len(seen) == len(loader) * 32


def test_unlabelled_images_alone_are_an_error(tmp_path):
    class Unlabelled(Photos):
        def splits(self):
            return super().splits()._replace(bank=None, val=None, test=None)

    with pytest.raises(ValueError, match="FixMatch learns from labelled images too"):
        trainer(tmp_path, max_steps=1).fit(make(FixMatch), Unlabelled(batch_size=16, image_size=16))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"unlabelled_ratio": 0}, "take Classifier"),
        ({"unlabelled_weight": -1.0}, "unlabelled_weight"),
        ({"ema": 1.5}, "ema must"),
    ],
)
def test_wrong_numbers(wrong, words):
    with pytest.raises(ValueError, match=words):
        make(FixMatch, **wrong)


def test_images_are_not_mixed():
    with pytest.raises(TypeError, match="mixup"):
        make(FixMatch, mixup=0.5)


def test_the_rate_ends_at_the_cosine_of_seven_sixteenths():
    factors = [lr_factor(step, 1000, 0, "cosine_7_16") for step in (0, 500, 1000)]
    assert factors == pytest.approx([1, math.cos(7 * math.pi / 32), 0.19509], abs=1e-5)


def test_weak_and_strong_view_of_an_image_share_what_they_draw_no_more_than_two_views_do():
    weak, strong = batch().views
    assert weak.shape == strong.shape == (12, 3, 16, 16)
    assert not torch.equal(weak, strong)

    class Geometry(FixMatchViews):
        def at(self, size):
            weak, strong = super().at(size)
            return weak, replace(strong, policy=None)

    of = batch()
    plain, again = Geometry()(of.image, of.index, 16, 0, 0)  # crop and flip; these, and Cutout
    same = ((plain == again) | (again == 0.5)).flatten(1).all(1)
    assert same.float().mean() < 0.5


@pytest.mark.parametrize("cls", [DigitsTags, DigitsText])
def test_images_with_more_are_refused(cls, tmp_path):
    with pytest.raises(ValueError, match=f"FixMatch learns from images alone, and {cls.__name__} has more"):
        trainer(tmp_path, max_steps=1).fit(make(FixMatch), cls(batch_size=8, image_size=16, label_fraction=0.5))


def test_the_same_data_give_another_method_its_images(tmp_path):
    """FixMatch learns from all of them, a classifier from the labelled ones."""
    images, sizes = data(FixMatch), []
    for cls in (FixMatch, Classifier, FixMatch):
        trainer(tmp_path / cls.__name__, max_steps=1).fit(make(cls), images)
        sizes.append(len(images._ready().train))
    assert sizes[0] == sizes[2] > 40 == sizes[1]
