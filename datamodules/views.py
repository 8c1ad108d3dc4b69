"""The pipeline of one view, and the recipes of the papers."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from datamodules.augment import (
    Interpolation,
    Range,
    color_jitter,
    erase,
    erased_boxes,
    gaussian_blur,
    greyscale,
    on_drawn,
    random_boxes,
    resized_crop,
    solarize,
)
from datamodules.draws import uniform
from datamodules.rand_augment import Magnitude, RandAugment

CACHED = 3 * 2**19  # numbers of the part of a batch that stays in a CPU's cache from one operation to the next
SMALL = 64  # sides below this are CIFAR-like: the papers blur nothing there, and SimCLR halves the jitter


@dataclass(frozen=True, kw_only=True)
class View:
    """The pipeline of one view: crop, flip, jitter, grey, blur, solarize, RandAugment, erasing, each with its
    probability per image.

    Args:
        scale: Range of the crop's share of the image's area.
        ratio: Range of the crop's width / height.
        padding: Black border in pixels of the view, out of which a square of the image's size is cut, instead
            of the crop by `scale` and `ratio`. None: no border.
        interpolation: bilinear or bicubic.
        flip: Probability to swap left and right.
        jitter: Strength s of brightness, contrast, saturation (factors from [max(0, 1 - s), 1 + s]) and hue
            (turns from [-s, s], at most 0.5).
        jitter_p, grey, blur, solarize: Probabilities of the other operations.
        sigma: Range of the blur's standard deviation in pixels.
        kernel: Width of the blur's kernel as a share of the side, made odd.
        policy: RandAugment or TrivialAugment.
        erasing: Probability of a grey box, of 0.02 to 0.33 of the area and 0.3 to 3.3 times as high as wide.
        cutout: Side of a grey square around any pixel of every image, as a share of the image's side; 0: none.

    Raises:
        ValueError: A number lies outside of its range.
    """

    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    padding: int | None = None
    interpolation: Interpolation = "bilinear"
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    sigma: Range = (0.1, 2.0)
    kernel: float = 0.1
    solarize: float = 0.0
    policy: RandAugment | None = None
    erasing: float = 0.0
    cutout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_p", "grey", "blur", "solarize", "erasing", "cutout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"a crop's share of the area must be 0 < min <= max <= 1, got {self.scale}")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ValueError(f"jitter must be 0 or more, and that of the hue at most 0.5, got {self.jitter}")
        if self.padding is not None and self.padding < 0:
            raise ValueError(f"padding must be 0 or more pixels, got {self.padding}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation must be bilinear or bicubic, got {self.interpolation}")

    @property
    def draws(self) -> int:
        """Uniform numbers of one view: the sums of the splits below."""
        return 36 + sum(self.further)

    @property
    def further(self) -> tuple[int, int, int]:
        """Those of policy, erasing and cutout."""
        return self.policy.draws if self.policy else 0, 23 if self.erasing else 0, 2 if self.cutout else 0

    def __call__(self, image: Tensor, u: Tensor, size: int) -> Tensor:
        """Makes the view (B, C, size, size) of image (B, C, H, W) uint8 from u (B, draws) on the CPU."""
        crop, u = u.split((22, self.draws - 22), dim=1)
        box = self.boxes(crop, image.shape[2], image.shape[3], size)
        numbers = image.shape[1] * max(image.shape[2] * image.shape[3], size * size)  # of an image
        part = max(1, CACHED // numbers) if image.device.type == "cpu" else len(image)
        parts = zip(image.split(part), box.split(part), u.split(part), strict=True)
        made = [self._part(*tensors, size) for tensors in parts]
        return torch.cat(made) if len(made) > 1 else made[0]

    def _part(self, image: Tensor, box: Tensor, u: Tensor, size: int) -> Tensor:
        jitter, order, u, policy, erasing, cutout = u.split((4, 4, 6, *self.further), dim=1)
        flip, jitter_p, grey, blur, sigma, solar = u.unbind(1)
        x = resized_crop(image.to(torch.float32) / 255, box, flip < self.flip, size, self.interpolation)
        if any(self.jitter):
            strength, neutral = torch.tensor(self.jitter), torch.tensor([1.0, 1.0, 1.0, 0.0])
            low, high = neutral - strength, neutral + strength
            low[:3].clamp_(min=0)
            x = color_jitter(x, jitter_p < self.jitter_p, low + jitter * (high - low), order.argsort(1))
        x = on_drawn(greyscale, x, grey < self.grey)
        blurred = partial(gaussian_blur, kernel=2 * (int(size * self.kernel) // 2) + 1)
        x = on_drawn(blurred, x, blur < self.blur, self.sigma[0] + sigma * (self.sigma[1] - self.sigma[0]))
        x = on_drawn(solarize, x, solar < self.solarize)
        if self.policy:
            x = self.policy(x, policy)
        if self.erasing:
            box = erased_boxes(erasing[:, 1:], size, (0.02, 0.33), (0.3, 3.3))
            x = on_drawn(erase, x, erasing[:, 0] < self.erasing, box)
        if self.cutout:
            side = torch.full((len(x), 2), float(round(self.cutout * size)))
            x = erase(x, torch.cat([(cutout * size).floor() - (side / 2).floor(), side], dim=1))
        return x

    def boxes(self, u: Tensor, height: int, width: int, size: int) -> Tensor:
        """The crop boxes (B, 4) for u (B, 22)."""
        if self.padding is None:
            return random_boxes(u, height, width, self.scale, self.ratio)
        side = torch.tensor([height, width])
        pad = (self.padding * side / size).round()
        return torch.cat([(u[:, 20:] * (2 * pad + 1)).floor() - pad, side.expand(len(u), 2)], dim=1)


class Views:
    """Makes the views of training. A recipe sets its numbers, calls super().__init__() and writes `at`."""

    def __init__(self) -> None:
        self.number = len(self.at(224))  # and wrong numbers fail here, not at the first batch

    def at(self, size: int) -> tuple[View, ...]:
        """The pipelines for views of this side in pixels."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.number

    @torch.no_grad()
    def __call__(self, image: Tensor, index: Tensor, size: int, *key: int) -> tuple[Tensor, ...]:
        """Makes the views of a batch. Call it outside of autocast.

        Args:
            image: (B, C, S, S) uint8 on any device.
            index: (B,) int64 on the CPU, the images' places in the data set.
            size: Side of the views in pixels.
            key: With the index, all that the random numbers depend on: for instance seed and epoch.

        Returns:
            One float32 (B, C, size, size) in [0, 1] for each view, contiguous, on the device of image.
        """
        pipelines = self.at(size)
        numbers = [view.draws for view in pipelines]
        draws = uniform(index, sum(numbers), *key).split(numbers, dim=1)
        return tuple(view(image, u, size) for view, u in zip(pipelines, draws, strict=True))


class SimCLRViews(Views):
    """Two views: crop, flip, strong jitter, grey, blur. Chen et al. 2020, https://arxiv.org/abs/2002.05709

    Args:
        strength: Factor of the jitter (0.8, 0.8, 0.8, 0.2). None: 1, and 0.5 for views below 64 pixels.
        blur: Probability of the blur. None: 0.5, and 0 for views below 64 pixels.
        min_scale: Smallest share of the area that a crop keeps.
        flip: Probability to swap left and right; 0 for digits and text.
    """

    def __init__(
        self,
        strength: float | None = None,
        blur: float | None = None,
        min_scale: float = 0.08,
        flip: float = 0.5,
    ) -> None:
        self.strength, self.blur, self.min_scale, self.flip = strength, blur, min_scale, flip
        super().__init__()

    def at(self, size: int) -> tuple[View, ...]:
        s = _paper(self.strength, size, 1.0, small=0.5)
        crop = View(scale=(self.min_scale, 1.0), interpolation="bicubic", flip=self.flip)
        jitter = (0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)
        return (replace(crop, jitter=jitter, jitter_p=0.8, grey=0.2, blur=_paper(self.blur, size, 0.5)),) * 2


class MoCoV1Views(Views):
    """Two views: crop, flip, jitter of every image, grey. He et al. 2019, https://arxiv.org/abs/1911.05722

    The authors turn grey before the jitter; here grey comes after it, as in the other recipes. The two differ
    only in how saturation and hue have moved the luminance of a grey view.

    Args:
        min_scale: Smallest share of the area that a crop keeps.
        flip: Probability to swap left and right; 0 for digits and text.
    """

    def __init__(self, min_scale: float = 0.2, flip: float = 0.5) -> None:
        self.min_scale, self.flip = min_scale, flip
        super().__init__()

    def at(self, size: int) -> tuple[View, ...]:
        crop = View(scale=(self.min_scale, 1.0), flip=self.flip)
        return (replace(crop, jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, grey=0.2),) * 2


class MoCoV2Views(Views):
    """Two views: crop, flip, jitter, grey, blur. Chen et al. 2020, https://arxiv.org/abs/2003.04297

    Also of SimSiam.

    Args:
        blur: Probability of the blur. None: 0.5, and 0 for views below 64 pixels.
        min_scale: Smallest share of the area that a crop keeps. None: 0.2, and 0.08 for views below 64 pixels
            (the authors' CIFAR-10 demonstration).
        flip: Probability to swap left and right; 0 for digits and text.
    """

    def __init__(self, blur: float | None = None, min_scale: float | None = None, flip: float = 0.5) -> None:
        self.blur, self.min_scale, self.flip = blur, min_scale, flip
        super().__init__()

    def at(self, size: int) -> tuple[View, ...]:
        crop = View(scale=(_paper(self.min_scale, size, 0.2, small=0.08), 1.0), flip=self.flip)
        jitter = (0.4, 0.4, 0.4, 0.1)
        return (replace(crop, jitter=jitter, jitter_p=0.8, grey=0.2, blur=_paper(self.blur, size, 0.5)),) * 2


class BYOLViews(Views):
    """Two views that differ in blur and solarization. Grill et al. 2020, https://arxiv.org/abs/2006.07733

    Also of Barlow Twins and MoCo v3 (with min_scale 0.2 for a ResNet, 0.08 for a ViT).

    Args:
        blur: Probabilities of the blur in the two views. None: (1, 0.1), and 0 for views below 64 pixels.
        solarize: Probabilities to invert the bright pixels in the two views.
        min_scale: Smallest share of the area that a crop keeps.
        flip: Probability to swap left and right; 0 for digits and text.
    """

    def __init__(
        self,
        blur: Range | None = None,
        solarize: Range = (0.0, 0.2),
        min_scale: float = 0.08,
        flip: float = 0.5,
    ) -> None:
        self.blur, self.solarize, self.min_scale, self.flip = blur, solarize, min_scale, flip
        super().__init__()

    def at(self, size: int) -> tuple[View, ...]:
        crop = View(scale=(self.min_scale, 1.0), interpolation="bicubic", flip=self.flip)
        view = replace(crop, jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, grey=0.2)
        blur = self.blur or (_paper(None, size, 1.0), _paper(None, size, 0.1))
        return tuple(replace(view, blur=blur[i], solarize=self.solarize[i]) for i in range(2))


class CropFlipViews(Views):
    """Crops and flips, and erases if asked: for supervised training and masked images.

    Random erasing: Zhong et al. 2017, https://arxiv.org/abs/1708.04896. Cutout: DeVries and Taylor 2017,
    https://arxiv.org/abs/1708.04552. Both fill with grey, as after normalising 0 is.

    Args:
        views: Number of views.
        min_scale: Smallest share of the area that a crop keeps. None: see padding.
        padding: Black border in pixels, out of which a square of the image's size is cut; 0 never crops.
            None: crops by min_scale where that is given; else 4, but min_scale 0.08 above 64 pixels.
        interpolation: bilinear or bicubic.
        flip: Probability to swap left and right; 0 for digits and text.
        erasing: Probability of random erasing: a box of 0.02 to 0.33 of the area.
        cutout: Side of Cutout's square in every image, as a share of the image's side: 0.5 of CIFAR-10.

    Raises:
        ValueError: Both padding and min_scale are given, or a number lies outside of its range.
    """

    def __init__(
        self,
        views: int = 1,
        min_scale: float | None = None,
        padding: int | None = None,
        interpolation: Interpolation = "bilinear",
        flip: float = 0.5,
        erasing: float = 0.0,
        cutout: float = 0.0,
    ) -> None:
        if padding is not None and min_scale is not None:
            raise ValueError(f"give padding or min_scale, not both: got {padding} and {min_scale}")
        if views < 1:
            raise ValueError(f"views must be 1 or more, got {views}")
        self.views, self.min_scale, self.padding = views, min_scale, padding
        self.interpolation, self.flip = interpolation, flip
        self.erasing, self.cutout = erasing, cutout
        super().__init__()

    def at(self, size: int) -> tuple[View, ...]:
        padding = 4 if self.padding is None and self.min_scale is None and size <= 64 else self.padding
        scale = (0.08 if self.min_scale is None else self.min_scale, 1.0)
        crop = View(scale=scale, padding=padding, interpolation=self.interpolation, flip=self.flip)
        return (replace(crop, erasing=self.erasing, cutout=self.cutout),) * self.views


class RandAugmentViews(CropFlipViews):
    """Crop, flip, RandAugment, and erasing if asked. Cubuk et al. 2019, https://arxiv.org/abs/1909.13719

    Args:
        operations: How many of the fourteen, one after the other.
        magnitude: Their strength, from 0 to 30. random: drawn for each image and operation, as FixMatch does.
        kwargs: Crop, flip and erasing, see CropFlipViews.

    Raises:
        ValueError: A number lies outside of its range.
    """

    def __init__(self, operations: int = 2, magnitude: Magnitude = 9, **kwargs: Any) -> None:
        self.policy = RandAugment(operations, magnitude)
        super().__init__(**kwargs)

    def at(self, size: int) -> tuple[View, ...]:
        return tuple(replace(view, policy=self.policy) for view in super().at(size))


class FixMatchViews(Views):
    """A weak and a strong view: crop and flip; the same, two operations of RandAugment of any strength, and Cutout of
    half the side. Sohn et al. 2020, section 2.3, https://arxiv.org/abs/2001.07685

    The crop is a square of the image's size out of a border of an eighth, which is black here, reflected there.

    Args:
        operations: Of RandAugment.
        flip: Probability to swap left and right; 0 for digits and text.
    """

    def __init__(self, operations: int = 2, flip: float = 0.5) -> None:
        self.policy, self.flip = RandAugment(operations, magnitude="random"), flip
        super().__init__()

    def at(self, size: int) -> tuple[View, ...]:
        weak = View(padding=size // 8, flip=self.flip)
        return weak, replace(weak, policy=self.policy, cutout=0.5)


class TrivialAugmentViews(CropFlipViews):
    """Crop, flip, one of the fourteen operations with any strength in wide ranges, and erasing if asked.

    Müller and Hutter 2021, https://arxiv.org/abs/2103.10158. Its arguments are those of CropFlipViews.
    """

    def at(self, size: int) -> tuple[View, ...]:
        policy = RandAugment(operations=1, magnitude="random", wide=True)
        return tuple(replace(view, policy=policy) for view in super().at(size))


def _paper(number: float | None, size: int, large: float, small: float = 0.0) -> float:
    """The user's number, or else the paper's for views of this size."""
    return number if number is not None else (small if size < SMALL else large)
