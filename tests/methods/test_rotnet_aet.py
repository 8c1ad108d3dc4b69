import math

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.batch import ImageBatch
from ssl_lightning.methods import AET, RotNet
from ssl_lightning.methods.transform_prediction.rotnet import rotations
from ssl_lightning.warp import Affine
from tests.methods.tiny import data, make, trainer

KINDS = [{"transformation": "affine"}, {"transformation": "projective"}, {"true_std": True}]


def batch(n, size=16):
    return ImageBatch(torch.zeros(0), torch.zeros(n), torch.arange(n), (torch.rand(n, 3, size, size),))


def without_head(model):
    """The model when it says the same of every image."""
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    return model


# ---- RotNet


def test_all_four_rotations_are_pillow_s():
    x = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    turned, rotation = rotations(x)
    assert rotation.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for place, (image, k) in enumerate(zip(turned, rotation.tolist(), strict=True)):
        picture = Image.fromarray(x[place % 3].permute(1, 2, 0).numpy()).rotate(90 * k)
        assert torch.equal(image, torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1))


def test_an_image_that_is_not_square_cannot_be_turned():
    with pytest.raises(ValueError, match="only square images can be turned by 90 degrees, got 8 x 12: crop them"):
        rotations(torch.rand(2, 3, 8, 12))


def test_rotnet_s_loss_is_the_mean_over_images_and_rotations():
    model, images = make(RotNet).eval(), batch(5)
    terms = model.training_step(images, 0)
    losses, right = [], 0
    for image in images.views[0]:
        for k in range(4):
            turned = torch.from_numpy(np.rot90(image.numpy(), k, (1, 2)).copy())
            log_p = model.head(model.backbone(turned[None]))[0].double().log_softmax(0)
            losses.append(-log_p[k].item())
            right += int(log_p.argmax() == k)
    assert terms["loss"].item() == pytest.approx(sum(losses) / 20)
    assert terms["accuracy"].item() == pytest.approx(right / 20)


def test_rotnet_starts_at_ln_4():
    assert make(RotNet).training_step(batch(64), 0)["loss"].item() == pytest.approx(math.log(4), abs=0.15)
    terms = without_head(make(RotNet)).training_step(batch(64), 0)
    assert terms["loss"].item() == pytest.approx(math.log(4))
    assert terms["accuracy"].item() == 0.25


# ---- AET


@pytest.mark.parametrize("kind", KINDS)
def test_aet_s_loss_is_that_of_the_paper(kind):
    """Image by image, warped by Pillow; equation 2 of the paper without its factor 1/2."""
    model, images = make(AET, **kind).eval(), batch(4)
    family = model.transformation
    method, n = (Image.Transform.AFFINE, 6) if isinstance(family, Affine) else (Image.Transform.PERSPECTIVE, 8)
    errors = []
    for image, u in zip(images.views[0], model.uniform(images.index, family.draws), strict=True):
        t = family.draw(u[None])
        how = {"method": method, "data": family.matrix(t).flatten()[:n].tolist(), "fillcolor": 128 / 255}
        pictures = [Image.fromarray(c.numpy()).transform((16, 16), resample=2, **how) for c in image]
        warped = torch.from_numpy(np.stack([np.asarray(p) for p in pictures]))
        said = model.head(torch.cat([model.backbone(image[None]), model.backbone(warped[None])], dim=1)).double()
        errors += ((said.tanh() if method == Image.Transform.AFFINE else said) - t).square().flatten().tolist()
    loss = model.training_step(images, 0).item()
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-4)


@pytest.mark.parametrize(("kind", "constant"), list(zip(KINDS, (0.389, 0.512, 1.0), strict=True)))
def test_aet_starts_at_its_constant(kind, constant):
    images = batch(512, 32)
    model = make(AET, **kind, image_size=32)
    assert constant - 0.05 < model.training_step(images, 0).item() < constant + 0.4  # it says something, at random
    assert without_head(model).training_step(images, 0).item() == pytest.approx(constant, abs=0.03)


def test_images_and_warped_images_have_batch_norm_statistics_of_their_own():
    model = make(AET)
    x, warped, _ = model.pair(batch(8), model.uniform(torch.arange(8), 10))
    apart = torch.cat([model.backbone(x), model.backbone(warped)], dim=1)
    together = torch.cat(model.backbone(torch.cat([x, warped])).chunk(2), dim=1)
    torch.testing.assert_close(model.predict(x, warped), model.head(apart))
    assert not torch.allclose(model.head(apart), model.head(together), atol=1e-3)


def test_training_draws_anew_in_every_epoch_and_evaluation_does_not(monkeypatch):
    model, images = make(AET), batch(4)
    drawn = []
    for epoch in (0, 1):
        monkeypatch.setattr(AET, "current_epoch", epoch)
        drawn.append((model.pair(images, model.uniform(images.index, 10))[2], model.held_out(images)[2]))
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert len(drawn[0][1].unique(dim=0)) == 4  # a transformation for each image


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"transformation": "rotation"}, "transformation must be affine or projective, got 'rotation'"),
        ({"transformation": "affine", "true_std": True}, "true_std is for projective"),
    ],
)
def test_aet_refuses_what_it_does_not_know(arguments, words):
    with pytest.raises(ValueError, match=words):
        make(AET, **arguments)


# ---- both


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("cls", [RotNet, AET])
def test_the_momentum_is_nesterov_s_with_sgd(cls, optimizer, tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.fit(make(cls, optimizer=optimizer), data())
    assert run.optimizers[0].defaults.get("nesterov") == (True if optimizer == "SGD" else None)


def test_rotnet_s_pictures_are_the_rotations_and_what_it_says():
    model, images = make(RotNet).eval(), batch(3)
    model.head.bias.data[2] = 100  # always 180 degrees
    columns = model.pictures(images)
    assert [c.title for c in columns] == ["0°", "90°", "180°", "270°"]
    assert torch.equal(columns[1].images, torch.rot90(images.views[0], 1, (2, 3)))
    assert {caption for c in columns for caption in c.captions} == {"said 180°"}
    assert [c.right.tolist() for c in columns] == [[False] * 3, [False] * 3, [True] * 3, [False] * 3]


@pytest.mark.parametrize("kind", KINDS)
def test_aet_s_pictures_agree_where_the_prediction_is_right(kind, monkeypatch):
    model, images = make(AET, **kind).eval(), batch(3)
    t = model.held_out(images)[2]
    monkeypatch.setattr(model, "predict", lambda x, warped: t)
    image, warped, again = model.pictures(images)
    assert torch.equal(image.images, images.views[0])
    assert ((again.images - warped.images).abs() < 1e-3).float().mean() > 0.99
    assert not torch.allclose(image.images, warped.images)
    assert again.captions == ["error 0.00"] * 3
