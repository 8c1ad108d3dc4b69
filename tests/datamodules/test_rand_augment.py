import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats
from torchvision.transforms import v2

from datamodules.draws import uniform
from datamodules.rand_augment import OPERATIONS, RandAugment
from tests.datamodules.test_views import noise

THEIRS = {"autocontrast": "AutoContrast"} | {
    name: "".join(word.capitalize() for word in name.split("_")) for name in OPERATIONS if name != "autocontrast"
}
SIGNED = (*OPERATIONS[:5], "brightness", "color", "contrast", "sharpness")


def oracle(wide: bool):
    return v2.TrivialAugmentWide() if wide else v2.RandAugment()


def by_torchvision(image, name, step, sign, wide):
    """One image (C, S, S) through torchvision's own class."""
    magnitudes, signed = oracle(wide)._AUGMENTATION_SPACE[THEIRS[name]]
    assert signed == (name in SIGNED)
    numbers = magnitudes(31, *image.shape[1:])
    magnitude = 0.0 if numbers is None else float(numbers[step]) * (sign if signed else 1)
    return oracle(wide)._apply_image_or_video_transform(
        image, THEIRS[name], magnitude, interpolation=v2.InterpolationMode.NEAREST, fill={}
    )


def test_there_are_as_many_operations_as_in_torchvision():
    for wide in (False, True):
        assert sorted(THEIRS.values()) == sorted(oracle(wide)._AUGMENTATION_SPACE)


def one(x, name, steps, sign, wide=False):
    b = len(x)
    which = torch.full((b,), OPERATIONS.index(name), dtype=torch.int32)
    numbers = torch.full((b,), float(steps), dtype=torch.float64), torch.full((b,), float(sign))
    return RandAugment(wide=wide).apply(x.clone(), which, *numbers)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_equals_torchvisions(x, name, wide):
    for step in (0, 1, 7, 9, 14, 22, 30):  # of 32 pixels torchvision's 15th of 30 steps is 15 for rounding
        for sign in (-1, 1):
            ours = one(x, name, step, sign, wide)
            theirs = torch.stack([by_torchvision(image, name, step, sign, wide) for image in x])
            differ = (ours - theirs).abs() > 1e-5
            # a place between two pixels may be rounded to either
            assert differ.float().mean() <= (0.01 if name in ("shear_x", "shear_y", "rotate") else 0), (step, sign)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in ("shear_x", "shear_y", "rotate")])
def test_every_operation_equals_torchvisions_on_bytes(tiles, name, wide):
    for step in (1, 9, 22, 30):
        ours = one(tiles / 255, name, step, 1, wide)
        theirs = torch.stack([by_torchvision(image, name, step, 1, wide) for image in tiles]) / 255
        assert (ours - theirs).abs().max() <= 2.001 / 255  # they round the grey image, and then its blend
        assert (ours - theirs).abs().mean() < 1 / 255


@pytest.mark.parametrize("name", ["equalize", "autocontrast", "posterize"])
def test_levels_are_those_of_pillow(photo, name):
    square = Image.fromarray(photo[:200, :200])
    pillow = {
        "equalize": ImageOps.equalize,
        "autocontrast": ImageOps.autocontrast,
        "posterize": lambda image: ImageOps.posterize(image, 5),
    }[name](square)
    ours = one(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255, name, 22, 1)
    theirs = torch.from_numpy(np.array(pillow)).permute(2, 0, 1)[None] / 255
    assert (ours - theirs).abs().max() <= 1.001 / 255


def test_a_shift_is_exact_and_black_comes_in(x):
    ours = one(x, "translate_x", 30, 1)  # 150 / 331 * 32 = 14.5: 14 pixels
    assert torch.equal(ours[..., 14:], x[..., :-14])
    assert ours[..., :14].abs().max() == 0
    assert one(x, "translate_y", 30, -1, wide=True).abs().max() == 0  # by 32 pixels nothing is left


@pytest.mark.parametrize("channels", [1, 13])
def test_operations_without_rgb(channels):
    x = noise(4, channels, 8) / 255
    for name in OPERATIONS:
        ours = one(x, name, 15, 1)
        assert ours.shape == x.shape
        assert torch.equal(ours, x) == (name in ("identity", "color"))
        if channels == 1 and name not in ("shear_x", "shear_y", "rotate"):
            theirs = torch.stack([by_torchvision(image, name, 15, 1, False) for image in x])
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_operations_strengths_and_directions_are_drawn_evenly(monkeypatch):
    seen = []
    monkeypatch.setattr(RandAugment, "apply", lambda self, x, *drawn: (seen.append(drawn), x)[1])
    policy = RandAugment(operations=2, magnitude="random")
    assert policy.draws == 6
    policy(torch.zeros(20_000, 3, 1, 1), uniform(torch.arange(20_000), policy.draws, 0))
    assert len(seen) == 2
    for which, steps, sign in seen:
        for drawn, kinds in ((which, 14), (steps, 31), (sign, 2)):
            values, counts = drawn.unique(return_counts=True)
            assert len(values) == kinds
            assert stats.chisquare(counts.numpy()).pvalue > 1e-3
        assert {steps.min().item(), steps.max().item()} == {0, 30}
    assert abs(np.corrcoef(seen[0][0], seen[1][0])[0, 1]) < 0.03
    seen.clear()
    RandAugment(1, 9)(torch.zeros(5, 3, 1, 1), torch.rand(5, 3))
    assert seen[0][1].tolist() == [9] * 5


def test_operations_follow_one_another_for_each_image(x):
    policy = RandAugment(operations=3, magnitude=12)
    u = uniform(torch.arange(len(x)), policy.draws, 0)
    ours = policy(x.clone(), u)
    for image, result, row in zip(x, ours, u.tolist(), strict=True):
        for which, _, direction in np.reshape(row, (3, 3)):
            image = by_torchvision(image, OPERATIONS[int(14 * which)], 12, -1 if direction < 0.5 else 1, False)
        close = ((result - image).abs() < 0.005).float().mean()  # levels of one may lie between those of the next
        assert close > 0.9
