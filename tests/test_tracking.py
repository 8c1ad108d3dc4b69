"""The tracker on pictures whose motion is known."""

import pytest
import torch
from torch.nn import functional as F

from callbacks.tracking import success_curve
from datamodules.video import Video
from ssl_lightning.tracking import Tracker, displacements, track


def pixels(x):
    return x * 255 - 128


class Sliding(Video):
    """A textured square that moves, and grows, over a smooth background."""

    def __init__(self, velocity=(0.0, 0.0), growth=1.0, n=12):
        steps = torch.arange(n, dtype=torch.float64)
        side = 24 * growth**steps
        centres = torch.tensor([60.0, 50.0]) + steps[:, None] * torch.tensor(velocity)
        super().__init__("sliding", torch.cat([centres - side[:, None] / 2, side[:, None].expand(-1, 2)], 1))
        self.texture = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 255

    def __len__(self):
        return len(self.boxes)

    def frame(self, i):
        frame = torch.linspace(60, 180, 140).expand(3, 110, 140).clone()
        x, y, w, h = self.boxes[i].round().long().tolist()
        part = frame[:, max(y, 0) : y + h, max(x, 0) : x + w]
        part.copy_(F.interpolate(self.texture, (h, w), mode="bilinear")[0, :, : part.shape[1], : part.shape[2]])
        return frame.to(torch.uint8)


def follow(video, **settings):
    return track(Tracker(pixels, 64, **settings), video, video.boxes[0])[0]


@pytest.mark.parametrize("velocity", [(3.0, 0.0), (-3.0, 2.0), (0.0, -2.0)])
def test_a_moving_target_is_followed(velocity):
    video = Sliding(velocity)
    boxes = follow(video)
    assert (boxes - video.boxes)[:, :2].abs().max() < 2.5
    assert boxes[0].tolist() == video.boxes[0].tolist()
    assert len(boxes) == len(video)


def test_scales_follow_a_target_that_grows():
    video = Sliding(growth=1.03, n=16)
    several, one = (success_curve(follow(video, scales=n), video.boxes).mean() for n in (3, 1))
    assert several > one + 0.1
    assert several > 0.75


def test_the_unit_scale_is_among_an_odd_number_and_an_even_one_is_refused():
    assert Tracker(pixels, 16, scales=5, scale_step=2.0).factors.tolist() == [0.25, 0.5, 1, 2, 4]
    with pytest.raises(ValueError, match="scales must be an odd number, got 4"):
        Tracker(pixels, 16, scales=4)


def test_displacements_are_x_and_y_in_cells_of_the_window():
    video = Sliding((3.0, -2.0))
    found = displacements(Tracker(pixels, 64), video, video.boxes, 1, [2, 4])
    cell = 24 * 3 / 64
    expected = torch.tensor([[3.0, -2.0], [9.0, -6.0]]) / cell
    assert (found - expected).abs().max() < 1


def test_a_target_that_leaves_keeps_the_box_in_the_frame():
    boxes = follow(Sliding((12.0, 0.0), n=10))
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    assert (centres >= 0).all()
    assert (centres <= torch.tensor([140.0, 110.0])).all()


@pytest.mark.parametrize("box", [[150.0, 10.0, 10.0, 10.0], [10.0, 10.0, 0.0, 5.0]])
def test_a_box_that_is_none_names_sequence_and_frame(box):
    with pytest.raises(ValueError, match="sequence sliding, frame 1"):
        track(Tracker(pixels, 16), Sliding(), torch.tensor(box))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="update_rate must lie in"):
        Tracker(pixels, 16, update_rate=2)
    with pytest.raises(ValueError, match="padding must be above 0, got 0"):
        Tracker(pixels, 16, padding=0)
