import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import ColorJitter, RandomResizedCrop, v2
from torchvision.transforms import InterpolationMode as Mode
from torchvision.transforms import functional as tv

from datamodules.augment import (
    center_crop,
    color_jitter,
    erased_boxes,
    gaussian_blur,
    greyscale,
    random_boxes,
    resized_crop,
    solarize,
)
from datamodules.draws import uniform
from datamodules.rand_augment import RandAugment
from datamodules.views import (
    BYOLViews,
    CropFlipViews,
    MoCoV1Views,
    MoCoV2Views,
    RandAugmentViews,
    SimCLRViews,
    TrivialAugmentViews,
    View,
    Views,
)

RECIPES = [
    SimCLRViews(),
    MoCoV1Views(),
    MoCoV2Views(),
    BYOLViews(),
    CropFlipViews(2),
    CropFlipViews(min_scale=0.2),
    RandAugmentViews(magnitude=30, erasing=0.5),
    TrivialAugmentViews(erasing=0.25, cutout=0.3),
]
MODES = {"bilinear": Mode.BILINEAR, "bicubic": Mode.BICUBIC}
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
NO_FLIP = torch.tensor([False])


def one_by_one(operation, x: Tensor, *numbers: Tensor) -> Tensor:
    return torch.stack([operation(x[i], *(n[i].item() for n in numbers)) for i in range(len(x))])


def noise(batch: int, channels: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, channels, side, side), dtype=torch.uint8, generator=generator)


# Crops


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((3, 5, 20, 24), 32),  # enlarges
        ((0, 0, 32, 32), 32),
        ((0, 2, 32, 30), 9),  # shrinks
        ((10, 0, 4, 32), 16),  # both
        ((31, 31, 1, 1), 8),
    ],
)
def test_crop_equals_torchvision(x, box, size, flip, interpolation):
    ours = resized_crop(x, torch.tensor([box] * len(x)), torch.full((len(x),), flip), size, interpolation)
    theirs = tv.resized_crop(x, *box, [size, size], MODES[interpolation], antialias=True).clamp(0, 1)
    torch.testing.assert_close(ours, tv.hflip(theirs) if flip else theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(100, 200, 256, 256), (17, 300, 90, 77), (0, 0, 427, 640)])
def test_crop_of_a_photograph_equals_torchvision_and_pillow(photo, box, interpolation):
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255
    ours = resized_crop(image, torch.tensor([box]), NO_FLIP, 224, interpolation)
    theirs = tv.resized_crop(image, *box, [224, 224], MODES[interpolation], antialias=True).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)

    top, left, height, width = box
    cut = Image.fromarray(photo).crop((left, top, left + width, top + height))
    bands = [band.convert("F").resize((224, 224), PILLOW[interpolation]) for band in cut.split()]
    pillow = np.stack(bands).clip(0, 255) / 255
    assert np.abs(ours[0].numpy() - pillow).max() < 2e-5
    # on bytes Pillow rounds after each of the two directions, and also cuts the cubic's overshoot off twice
    pillow = np.asarray(cut.resize((224, 224), PILLOW[interpolation])).transpose(2, 0, 1) / 255
    assert np.abs(ours[0].numpy() - pillow).max() < (1.5 if interpolation == "bilinear" else 10) / 255
    assert np.abs(ours[0].numpy() - pillow).mean() < 0.4 / 255


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [7, 33, 50])
@pytest.mark.parametrize("shape", [(3, 32, 20), (1, 17, 48)])
def test_crops_at_every_border_equal_torchvision(photo, shape, size, interpolation):
    channels, height, width = shape
    image = torch.from_numpy(photo.copy())[100 : 100 + height, 200 : 200 + width, :channels].permute(2, 0, 1) / 255
    boxes = [
        (top, left, h, w)
        for h, w in [(height, width), (1, width), (height, 1), (9, 13), (2, 3)]
        for top in (0, (height - h) // 2, height - h)
        for left in (0, (width - w) // 2, width - w)
    ]
    flips = torch.arange(len(boxes)) % 2 > 0
    ours = resized_crop(image.expand(len(boxes), *shape), torch.tensor(boxes), flips, size, interpolation)
    for result, box, flip in zip(ours, boxes, flips, strict=True):
        theirs = tv.resized_crop(image, *box, [size, size], MODES[interpolation], antialias=True).clamp(0, 1)
        torch.testing.assert_close(result, tv.hflip(theirs) if flip else theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [20, 32, 45])
def test_what_lies_outside_of_the_image_is_black_as_torchvisions(x, size, interpolation):
    boxes = torch.tensor([(i, j, 32, 32) for i in (-5, 0, 5) for j in (-5, 0, 5)] + [(-8, 28, 12, 12), (40, 0, 8, 8)])
    ours = resized_crop(x[: len(boxes)], boxes, NO_FLIP.expand(len(boxes)), size, interpolation)
    assert ours[-1].max() == 0
    for image, result, box in zip(x, ours, boxes.tolist(), strict=False):
        theirs = tv.resized_crop(image, *box, [size, size], MODES[interpolation], antialias=True).clamp(0, 1)
        torch.testing.assert_close(result, theirs, atol=1e-5, rtol=0)


def test_each_image_has_its_own_box_and_flip(x):
    u = uniform(torch.arange(len(x)), 23, 0)
    boxes, flips = random_boxes(u[:, :22], 32, 32, (0.08, 1.0), (3 / 4, 4 / 3)), u[:, 22] < 0.5
    assert 0 < flips.sum() < len(x)
    assert len(boxes.unique(dim=0)) > len(x) // 2
    ours = resized_crop(x, boxes, flips, 24, "bilinear")
    for i, box in enumerate(boxes.int().tolist()):
        theirs = tv.resized_crop(x[i], *box, [24, 24], antialias=True)
        torch.testing.assert_close(ours[i], tv.hflip(theirs) if flips[i] else theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [(256, 256, (0.08, 1.0), (3 / 4, 4 / 3)), (60, 200, (0.2, 1.0), (3 / 4, 4 / 3))],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale, ratio):
    ours = random_boxes(uniform(torch.arange(2000), 22, 1), height, width, scale, ratio)
    blank = torch.zeros(1, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(2000)])
    measures = {
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "room": lambda b: b[:, 0] / (height - b[:, 2]).clamp(min=1),
    }
    for name, measure in measures.items():
        p = stats.ks_2samp(measure(ours).numpy(), measure(theirs.float()).numpy()).pvalue
        assert p > 1e-3, (name, p)


def test_boxes_follow_torchvisions_formula_from_the_same_numbers():
    u = uniform(torch.arange(300), 22, 4)
    ours = random_boxes(u, 60, 120, (0.3, 1.0), (3 / 4, 4 / 3)).int().tolist()
    for i, row in enumerate(u.double().tolist()):
        for area, aspect in zip(row[:10], row[10:20], strict=True):
            area, aspect = 7200 * (0.3 + 0.7 * area), (3 / 4) ** (1 - 2 * aspect)
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= 120 and 0 < h <= 60:
                assert ours[i] == [int(row[20] * (61 - h)), int(row[21] * (121 - w)), h, w]
                break
        else:
            assert ours[i] == [0, 20, 60, 80]


@pytest.mark.parametrize(("height", "width"), [(40, 10), (10, 40), (20, 20), (21, 20)])
def test_boxes_fall_back_on_torchvisions_central_crop(height, width):
    never = (3.9, 4.0)  # shares of the area that do not fit
    ours = random_boxes(torch.full((2, 22), 0.7), height, width, never, (3 / 4, 4 / 3))
    theirs = RandomResizedCrop.get_params(torch.zeros(1, height, width), list(never), [3 / 4, 4 / 3])
    assert ours.tolist() == [list(map(float, theirs))] * 2


@pytest.mark.parametrize("padding", [0, 4])
def test_padded_crop_shifts_the_image_over_black(tiles, padding):
    (view,) = CropFlipViews(padding=padding, flip=0.0)(tiles, torch.arange(len(tiles)), 32, 0)
    shifts = set()
    for image, result in zip(tiles / 255, view, strict=True):
        padded = torch.nn.functional.pad(image, (padding,) * 4)
        places = [(i, j) for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
        found = [(i, j) for i, j in places if torch.equal(padded[:, i : i + 32, j : j + 32], result)]
        assert len(found) == 1
        shifts.update(found)
    assert len(shifts) > 8 or padding == 0


def test_shifts_of_the_padded_crop_are_uniform():
    u = uniform(torch.arange(8100), 22, 0)
    boxes = View(padding=4).boxes(u, 32, 32, 32)
    assert boxes[:, :2].min() == -4
    assert boxes[:, :2].max() == 4
    counts = np.bincount(((boxes[:, 0] + 4) * 9 + boxes[:, 1] + 4).long().numpy(), minlength=81)
    assert stats.chisquare(counts).pvalue > 1e-4


# Colour and the rest


BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # in the order of color_jitter's factors


def only(operation: int, x: Tensor, amount: Tensor) -> Tensor:
    """color_jitter with three neutral factors, the operation first."""
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(len(x), 1)
    factors[:, operation] = amount
    order = torch.tensor([operation, *(i for i in range(4) if i != operation)]).repeat(len(x), 1)
    return color_jitter(x, torch.ones(len(x), dtype=torch.bool), factors, order)


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (BRIGHTNESS, tv.adjust_brightness, 0.0, 2.0),
        (CONTRAST, tv.adjust_contrast, 0.0, 2.0),
        (SATURATION, tv.adjust_saturation, 0.0, 2.0),
        (HUE, tv.adjust_hue, -0.5, 0.5),
    ],
)
def test_colour_operation_equals_torchvision(x, ours, theirs, low, high):
    x = torch.cat([x, torch.eye(3)[:, :, None, None].expand(3, 3, 32, 32), x.mean(1, keepdim=True).expand_as(x)])
    amount = torch.linspace(low, high, len(x))
    torch.testing.assert_close(only(ours, x, amount), one_by_one(theirs, x, amount), atol=5e-6, rtol=0)


def test_neutral_factors_change_nothing(x):
    torch.testing.assert_close(only(HUE, x, torch.zeros(len(x))), x, atol=2e-6, rtol=0)


def test_jitter_equals_torchvisions_in_the_same_order(x):
    u = uniform(torch.arange(len(x)), 8, 0)
    factors = torch.tensor([0.2, 0.2, 0.2, -0.2]) + u[:, :4] * torch.tensor([1.6, 1.6, 1.6, 0.4])
    order = u[:, 4:].argsort(1)
    assert len(order.unique(dim=0)) > 5
    drawn = torch.arange(len(x)) % 3 > 0
    before = x.clone()
    ours = color_jitter(x, drawn, factors, order)
    assert torch.equal(x, before)  # a pure function
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for i in range(len(x)):
        image = x[i]
        for number in order[i] if drawn[i] else ():
            image = operations[number](image, factors[i, number].item())
        torch.testing.assert_close(ours[i], image, atol=1e-5, rtol=0)


def test_jitter_factors_cover_torchvisions_ranges():
    jitter = (0.8, 1.5, 0.4, 0.2)
    theirs = ColorJitter(*jitter)
    seen = {}

    def record(x, drawn, factors, order):
        seen.update(factors=factors, order=order, drawn=drawn)
        return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.views.color_jitter", record)
        u = uniform(torch.arange(2400), View().draws, 0)
        View(jitter=jitter, jitter_p=0.8)(torch.zeros(2400, 3, 1, 1), u, 1)
    ranges = (theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue)
    for column, (low, high) in zip(seen["factors"].T, ranges, strict=True):
        assert stats.kstest(column.numpy(), "uniform", (low, high - low)).pvalue > 1e-3
    _, counts = seen["order"].unique(dim=0, return_counts=True)
    assert len(counts) == 24  # every order, equally often
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_greyscale_equals_torchvision(x):
    torch.testing.assert_close(greyscale(x), tv.rgb_to_grayscale(x, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("side", "kernel"), [(32, 3), (32, 9), (32, 63), (20, 1)])
def test_blur_equals_torchvision(x, side, kernel):
    x = x[..., :side]  # not always square
    sigma = torch.linspace(0.1, 2.0, len(x))
    theirs = one_by_one(lambda image, s: tv.gaussian_blur(image, [min(kernel, 2 * side - 1), kernel], s), x, sigma)
    torch.testing.assert_close(gaussian_blur(x, sigma, kernel), theirs, atol=1e-5, rtol=0)


def test_solarize_equals_torchvision(x):
    x = torch.cat([x, torch.full_like(x[:1], 0.5)])
    assert torch.equal(solarize(x), tv.solarize(x, 0.5))


@pytest.mark.parametrize("channels", [1, 13])
def test_operations_without_rgb(channels):
    x = noise(4, channels, 8) / 255
    amount = torch.linspace(-0.5, 0.5, 4)
    for operation in (SATURATION, HUE):
        torch.testing.assert_close(only(operation, x, amount), x, atol=1e-6, rtol=0)
    assert torch.equal(greyscale(x), x)
    factor = torch.full((4,), 0.5)
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(only(CONTRAST, x, factor), 0.5 * x + 0.5 * mean)


# Erasing


def test_erased_boxes_follow_torchvisions_formula_from_the_same_numbers():
    u = uniform(torch.arange(300), 22, 4)
    u[0, 10:20] = 1 - 2**-24  # 3.3 times as high as wide,
    u[0, :10] = 1 - 2**-24  # of which nothing fits
    ours = erased_boxes(u, 20, (0.02, 0.33), (0.3, 3.3)).int().tolist()
    for i, row in enumerate(u.double().tolist()):
        for area, aspect in zip(row[:10], row[10:20], strict=True):
            area, aspect = 400 * (0.02 + 0.31 * area), math.exp(math.log(0.3) + aspect * math.log(11))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < 20 and w < 20:
                assert ours[i] == [int(row[20] * (21 - h)), int(row[21] * (21 - w)), h, w]
                break
        else:
            assert ours[i][2:] == [0, 0]
    assert ours[0][2:] == [0, 0]


def test_erased_boxes_are_distributed_as_torchvisions():
    ours = erased_boxes(uniform(torch.arange(2000), 22, 1), 32, (0.02, 0.33), (0.3, 3.3))
    theirs = v2.RandomErasing(p=1.0)
    found = [theirs.make_params([torch.zeros(3, 32, 32)]) for _ in range(2000)]
    assert all(p["v"] is not None for p in found)
    for column, name in enumerate("ijhw"):
        p = stats.ks_2samp(ours[:, column].numpy(), [p[name] for p in found]).pvalue
        assert p > 1e-3, (name, p)


def test_the_drawn_images_are_erased_as_by_torchvision(tiles):
    view = View(padding=0, flip=0.0, erasing=0.5)
    u = uniform(torch.arange(len(tiles)), view.draws, 0)
    drawn, boxes = u[:, 36] < 0.5, erased_boxes(u[:, 37:], 32, (0.02, 0.33), (0.3, 3.3)).int().tolist()
    assert 0 < drawn.sum() < len(tiles)
    for image, result, erased, (i, j, h, w) in zip(tiles / 255, view(tiles, u, 32), drawn, boxes, strict=True):
        assert torch.equal(result, v2.functional.erase(image, i, j, h, w, torch.tensor(0.5)) if erased else image)


def test_cutout_is_a_square_around_any_pixel(tiles):
    view = View(padding=0, flip=0.0, cutout=0.5)
    u = uniform(torch.arange(len(tiles)), view.draws, 0)
    u[0, 36:], u[1, 36:] = 0, 1 - 2**-24
    for image, result, middle in zip(tiles / 255, view(tiles, u, 32), (u[:, 36:] * 32).int().tolist(), strict=True):
        expected = image.clone()
        y, x = middle
        expected[:, max(0, y - 8) : y + 8, max(0, x - 8) : x + 8] = 0.5
        assert torch.equal(result, expected)


# Views


def test_the_parts_of_a_batch_are_made_as_the_whole(tiles, monkeypatch):
    index = torch.arange(len(tiles))
    whole = SimCLRViews(blur=0.5)(tiles, index, 32, 0)
    monkeypatch.setattr("datamodules.views.CACHED", 5 * 3 * 32 * 32)  # 13 pictures in parts of 5
    for ours, theirs in zip(SimCLRViews(blur=0.5)(tiles, index, 32, 0), whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize(
    ("channels", "stored", "size"), [(1, 32, 32), (3, 32, 32), (13, 32, 32), (3, 256, 224), (1, 256, 224)]
)
def test_views_have_the_right_form(recipe, channels, stored, size):
    views = recipe(noise(3, channels, stored), torch.arange(3), size, 0, 0)
    assert len(views) == len(recipe)
    for view in views:
        assert view.shape == (3, channels, size, size)
        assert view.dtype == torch.float32
        assert view.is_contiguous()
        assert not view.requires_grad
        assert view.min() >= 0
        assert view.max() <= 1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r).__name__)
def test_views_read_nothing_from_the_device(recipe):
    views = recipe(torch.empty(64, 3, 32, 32, dtype=torch.uint8, device="meta"), torch.arange(64), 32, 0)
    assert {view.shape for view in views} == {(64, 3, 32, 32)}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r).__name__)
def test_views_are_a_function_of_image_and_key_alone(recipe, tiles):
    index = torch.arange(len(tiles)) + 100
    views = recipe(tiles, index, 32, 5, 1)
    assert all(map(torch.equal, views, recipe(tiles, index, 32, 5, 1)))
    assert not torch.allclose(views[0], recipe(tiles, index, 32, 5, 2)[0])
    assert not torch.allclose(views[0], recipe(tiles, index, 32, 6, 1)[0])
    # in another batch, in another order, alone
    for rows in ([4, 2, 9], list(range(12, -1, -1)), *([i] for i in range(len(tiles)))):
        for whole, part in zip(views, recipe(tiles[rows], index[rows], 32, 5, 1), strict=True):
            torch.testing.assert_close(part, whole[rows], atol=2e-6, rtol=0)


NOTHING = View(padding=0, flip=0.0)


@pytest.mark.parametrize(
    "view",
    [
        View(flip=0.0),
        View(padding=0, flip=0.5),
        View(padding=4, flip=0.0),
        View(padding=0, flip=0.0, jitter=(0.5, 0.0, 0.0, 0.0), jitter_p=1.0),
        View(padding=0, flip=0.0, jitter=(0.0, 0.5, 0.0, 0.0), jitter_p=1.0),
        View(padding=0, flip=0.0, jitter=(0.0, 0.0, 0.5, 0.0), jitter_p=1.0),
        View(padding=0, flip=0.0, jitter=(0.0, 0.0, 0.0, 0.5), jitter_p=1.0),
        View(padding=0, flip=0.0, grey=0.5),
        View(padding=0, flip=0.0, blur=1.0),
        View(padding=0, flip=0.0, solarize=0.5),
        View(padding=0, flip=0.0, policy=RandAugment(2, 30)),
        View(padding=0, flip=0.0, policy=RandAugment(1, "random", wide=True)),
        View(padding=0, flip=0.0, erasing=1.0),
        View(padding=0, flip=0.0, cutout=0.5),
    ],
    ids=[
        *("crop", "flip", "shift", "brightness", "contrast", "saturation", "hue", "grey", "blur", "solarize"),
        *("rand_augment", "trivial_augment", "erasing", "cutout"),
    ],
)
def test_draws_differ_within_a_batch(view, tiles):
    same = tiles[:1].expand(64, 3, 32, 32).contiguous()
    u = uniform(torch.arange(64), view.draws, 0)
    assert torch.equal(NOTHING(same, u[:, :36], 32), same / 255)
    kinds = len(view(same, u, 32).unique(dim=0))
    assert kinds == 2 if 0.5 in (view.flip, view.grey, view.solarize) else kinds > 30


def test_views_of_one_image_differ(tiles):
    first, second = SimCLRViews()(tiles, torch.arange(len(tiles)), 32, 0)
    assert (first - second).abs().amax((1, 2, 3)).min() > 0.02


def test_blurred_images_take_all_sigmas_of_the_range(monkeypatch):
    seen = []

    def record(x, sigma, kernel):
        seen.append((sigma, kernel))
        return x

    monkeypatch.setattr("datamodules.views.gaussian_blur", record)
    monkeypatch.setattr("datamodules.views.resized_crop", lambda x, *_: x)
    for size, taps in [(32, 3), (96, 9), (224, 23)]:  # SimCLR: 10 % of the side
        View(blur=0.5)(torch.zeros(2000, 1, 1, 1), uniform(torch.arange(2000), View().draws, 0), size)
        sigma, kernel = seen.pop()
        assert kernel == taps
        assert stats.kstest(sigma.numpy(), "uniform", (0.1, 1.9)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("recipe", "size", "expected"),
    [
        (SimCLRViews(), 32, [(0.8, 0.2, 0.0, 0.0)] * 2),
        (SimCLRViews(), 64, [(0.8, 0.2, 0.5, 0.0)] * 2),
        (MoCoV1Views(), 64, [(1.0, 0.2, 0.0, 0.0)] * 2),
        (MoCoV2Views(), 64, [(0.8, 0.2, 0.5, 0.0)] * 2),
        (BYOLViews(), 64, [(0.8, 0.2, 1.0, 0.0), (0.8, 0.2, 0.1, 0.2)]),
        (BYOLViews(), 32, [(0.8, 0.2, 0.0, 0.0), (0.8, 0.2, 0.0, 0.2)]),
        (CropFlipViews(), 64, [(0.0, 0.0, 0.0, 0.0)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Views) else None,
)
def test_recipes_meet_their_probabilities(recipe, size, expected, monkeypatch):
    """Counts on 2,000 images how often each operation is applied, and how often an image is mirrored."""
    counts: dict[str, int] = {}

    def counter(name):
        def count(x, *_, **__):
            counts[name] = counts.get(name, 0) + len(x)
            return x

        return count

    def count_crop(x, box, flip, size, interpolation):
        counts["flip"] = counts.get("flip", 0) + int(flip.sum())
        return x

    def count_jitter(x, drawn, factors, order):
        counts["jitter"] = counts.get("jitter", 0) + int(drawn.sum())
        return x

    monkeypatch.setattr("datamodules.views.resized_crop", count_crop)
    monkeypatch.setattr("datamodules.views.color_jitter", count_jitter)
    for name in ("greyscale", "gaussian_blur", "solarize"):
        monkeypatch.setattr(f"datamodules.views.{name}", counter(name))
    pipelines = recipe.at(size)
    draws = uniform(torch.arange(2000), pipelines[0].draws * len(pipelines), 0).chunk(len(pipelines), dim=1)
    for view, u, shares in zip(pipelines, draws, expected, strict=True):
        counts.clear()
        view(torch.zeros(2000, 3, 1, 1), u, size)
        names = ("flip", "jitter", "greyscale", "gaussian_blur", "solarize")
        for name, p in zip(names, (0.5, *shares), strict=True):
            assert abs(counts.get(name, 0) - 2000 * p) <= 4 * math.sqrt(2000 * p * (1 - p)), (name, counts)


def test_recipes_have_the_papers_numbers():
    simclr, small = SimCLRViews().at(224)[0], SimCLRViews().at(32)[0]
    assert simclr.jitter == (0.8, 0.8, 0.8, 0.2)
    assert small.jitter == (0.4, 0.4, 0.4, 0.1)
    assert (simclr.interpolation, simclr.scale) == ("bicubic", (0.08, 1.0))
    assert MoCoV1Views().at(224)[0].jitter == (0.4, 0.4, 0.4, 0.4)
    assert MoCoV2Views().at(224)[0].jitter == (0.4, 0.4, 0.4, 0.1)
    assert [MoCoV2Views().at(size)[0].scale for size in (32, 224)] == [(0.08, 1.0), (0.2, 1.0)]
    assert BYOLViews(min_scale=0.2).at(224)[1].scale == (0.2, 1.0)
    assert BYOLViews().at(224)[0].jitter == (0.4, 0.4, 0.2, 0.1)
    assert [CropFlipViews().at(size)[0].padding for size in (32, 64, 65, 224)] == [4, 4, None, None]
    assert CropFlipViews(min_scale=0.2).at(32)[0].padding is None


def test_a_given_number_beats_the_papers():
    assert SimCLRViews(blur=0.5).at(32)[0].blur == 0.5
    assert SimCLRViews(strength=0.0).at(224)[0].jitter == (0.0, 0.0, 0.0, 0.0)
    assert BYOLViews(blur=(0.0, 0.0)).at(224)[0].blur == 0.0


@pytest.mark.parametrize("recipe", [SimCLRViews, MoCoV1Views, MoCoV2Views, BYOLViews, CropFlipViews])
def test_flip_can_be_switched_off_and_forced(recipe):
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(32, 3, 32, 32)  # brighter to the right
    for flip, sign in [(0.0, 1), (1.0, -1)]:
        kwargs = {"solarize": (0.0, 0.0)} if recipe is BYOLViews else {}
        for view in recipe(flip=flip, **kwargs)(ramp, torch.arange(32), 32, 0):
            slope = sign * (view[..., 23].mean((1, 2)) - view[..., 8].mean((1, 2)))
            assert (slope >= 0).all()
            assert slope.mean() > 0.05


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: SimCLRViews(blur=1.5), "blur must lie in"),
        (lambda: SimCLRViews(min_scale=0.0), "share of the area"),
        (lambda: SimCLRViews(strength=3.0), "hue"),
        (lambda: MoCoV1Views(flip=-0.1), "flip must lie in"),
        (lambda: CropFlipViews(padding=4, min_scale=0.2), "not both"),
        (lambda: CropFlipViews(padding=-1), "padding must be"),
        (lambda: CropFlipViews(views=0), "views must be"),
        (lambda: CropFlipViews(interpolation="nearest"), "bilinear or bicubic"),
        (lambda: CropFlipViews(erasing=1.5), "erasing must lie in"),
        (lambda: CropFlipViews(cutout=-0.5), "cutout must lie in"),
        (lambda: RandAugmentViews(operations=-1), "operations must be 0 or more"),
        (lambda: RandAugmentViews(magnitude=31), r"magnitude must lie in \[0, 30\] or be random, got 31"),
    ],
)
def test_wrong_numbers_fail_at_construction(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


# Evaluation


@pytest.mark.parametrize(("side", "size"), [(32, 32), (256, 224), (33, 32), (35, 32)])
def test_center_crop_equals_torchvision(side, size):
    image = noise(2, 3, side)
    result = center_crop(image, size)
    assert torch.equal(result, tv.center_crop(image, [size, size]) / 255)
    assert result.is_contiguous()


def test_center_crop_enlarges_a_smaller_image():
    image = noise(2, 3, 28)
    result = center_crop(image, 32)
    torch.testing.assert_close(result, tv.resize(image / 255, [32, 32], antialias=True), atol=1e-6, rtol=0)
    assert result.is_contiguous()
