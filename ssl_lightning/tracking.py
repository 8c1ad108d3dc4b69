"""Tracking of a target from frame to frame by a correlation filter that is fitted to its first box and then follows it.

Wang, Gao, Xing, Zhang, Hu, DCFNet, 2017, https://arxiv.org/abs/1704.04057, section 3; the numbers are those of Wang,
Song, Ma, Zhou, Liu, Li, Unsupervised Deep Tracking, 2019, https://arxiv.org/abs/1904.01828, as the authors' PyTorch
release has them.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.boxes import check_boxes, windows
from datamodules.video import Video
from ssl_lightning.correlation_filter import Filter, fit, gaussian, peak, respond

Maps = Callable[[Tensor], Tensor]


class Tracker:
    """Follows one target. Around its last place windows of a few sizes are searched; where the filter answers most, the
    target is.

    Args:
        maps: Images (B, 3, S, S) float32 in [0, 1] -> maps (B, C, H, W).
        size: Side S of the windows in pixels.
        device: Where the maps are computed.
        padding: A window is 1 + padding times as wide and as high as the target.
        scales: How many sizes are searched, an odd number.
        scale_step: The ratio of one size to the next.
        scale_penalty: What the answers at other sizes than the last are multiplied by.
        update_rate: The share of each new frame in the filter.
        reg: Lambda of the filter.
        sigma: Standard deviation of the filter's label, as a share of the target's size.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        maps: Maps,
        size: int,
        device: torch.device | str = "cpu",
        padding: float = 2.0,
        scales: int = 3,
        scale_step: float = 1.0275,
        scale_penalty: float = 0.9925,
        update_rate: float = 0.01,
        reg: float = 1e-4,
        sigma: float = 0.1,
    ) -> None:
        if scales < 1 or scales % 2 == 0:
            raise ValueError(f"scales must be an odd number, got {scales}")
        if not 0 <= update_rate <= 1:
            raise ValueError(f"update_rate must lie in [0, 1], got {update_rate}")
        above = {"padding": padding, "scale_penalty": scale_penalty, "reg": reg, "sigma": sigma}
        for name, value in {**above, "scale_step - 1": scale_step - 1}.items():
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.maps, self.size, self.device, self.padding = maps, size, torch.device(device), padding
        steps = torch.arange(scales) - scales // 2
        self.factors = scale_step ** steps.float()  # (scales,)
        self.penalty = torch.where(steps == 0, 1.0, scale_penalty).to(self.device)
        self.update_rate, self.reg, self.sigma = update_rate, reg, sigma
        self.filter: Filter | None = None

    def features(self, frame: Tensor, factors: Tensor) -> Tensor:
        """(n, C, H, W): the maps of windows at the last place, of n times the last size, faded out at their border."""
        sides = factors[:, None] * self.sides * (1 + self.padding)
        maps = self.maps(windows(frame.to(self.device), self.centre, sides, self.size) / 255).float()
        fade = [torch.hann_window(side, periodic=False, device=self.device) for side in maps.shape[2:]]
        return maps * (fade[0][:, None] * fade[1])

    def fitted(self, frame: Tensor) -> Filter:
        maps = self.features(frame, torch.ones(1))
        height, width = maps.shape[2:]
        sigma = self.sigma * (height * width) ** 0.5 / (1 + self.padding)
        origin = torch.zeros(1, 2, device=self.device)
        return fit(maps, gaussian(height, width, sigma, origin), self.reg)

    @torch.no_grad()
    def start(self, frame: Tensor, box: Tensor) -> None:
        """Fit the filter.

        Args:
            frame: (3, H, W) uint8.
            box: (4,) x, y, width and height.
        """
        self.sides = box[2:].float()
        self.centre = box[:2].float() + self.sides / 2
        frame_sides = torch.tensor(frame.shape[:0:-1]).float()  # width and height
        self.least = (0.2 * self.sides).clamp(min=4)
        self.most = torch.minimum(5 * self.sides, frame_sides).clamp(min=self.least)
        self.filter = self.fitted(frame)

    @torch.no_grad()
    def update(self, frame: Tensor) -> Tensor:
        """The box (4,) float32 in the next frame (3, H, W) uint8."""
        assert self.filter is not None, "start() comes first"
        response = respond(self.filter, self.features(frame, self.factors))
        best = int((response.amax((1, 2)) * self.penalty).argmax())
        height, width = response.shape[1:]
        down, across = peak(response[best : best + 1])[0].tolist()
        window = self.sides * (1 + self.padding) * self.factors[best]
        limits = torch.tensor(frame.shape[:0:-1]).float()
        moved = self.centre + torch.tensor([across / width, down / height]) * window
        self.centre = torch.minimum(moved.clamp(min=0), limits - 1)
        self.sides = torch.maximum(torch.minimum(self.sides * self.factors[best], self.most), self.least)
        self.filter = self.filter.mixed(self.fitted(frame), self.update_rate)
        return torch.cat([self.centre - self.sides / 2, self.sides])


def track(tracker: Tracker, video: Video, box: Tensor) -> tuple[Tensor, float]:
    """Follow a target through a video from its box in the first frame.

    Returns:
        The boxes (N, 4) float64, the first as given; the seconds that it took without reading the frames.

    Raises:
        ValueError: the box has no area or lies outside of the frame.
    """
    frame = video.frame(0)
    check_boxes([box], frame.shape[1], frame.shape[2], f"sequence {video.name}")
    boxes, seconds = [box.double()], 0.0
    for i in range(len(video)):
        frame = video.frame(i)
        start = time.perf_counter()
        if i == 0:
            tracker.start(frame, box)
        else:
            boxes.append(tracker.update(frame).double())
        seconds += time.perf_counter() - start
    return torch.stack(boxes), seconds


@torch.no_grad()
def displacements(tracker: Tracker, video: Video, boxes: Tensor, first: int, later: list[int]) -> Tensor:
    """How far the target seems to have moved from frame `first`, where its box is known, in other frames: (n, 2) x and
    y in cells of the window around that box, in which it is searched for at its size."""
    tracker.start(video.frame(first), boxes[first])
    assert tracker.filter is not None
    maps = torch.cat([tracker.features(video.frame(i), torch.ones(1)) for i in later])
    return peak(respond(tracker.filter, maps)).flip(1)
