"""Moving digits, folders of frames, and the windows cut from both."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import Crops, MovingDigits, VideoFolder
from datamodules.boxes import box_of, otb_lines, read_boxes, windows
from datamodules.moving_digits import DISTRACTORS, DigitVideo, digits, rows_of
from datamodules.videos import Windows, richest


def sequence(folder: Path, frames: int = 4, boxes: str | None = "3,4,8,6\n", size: tuple[int, int] = (40, 30)) -> Path:
    (folder / "img").mkdir(parents=True)
    for i in range(frames):
        picture = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "img" / f"{i + 1:04d}.png")
    if boxes is not None:
        (folder / "groundtruth_rect.txt").write_text(boxes * frames)
    return folder


def ready(data, stage="fit"):
    data.setup(stage)
    return data


# ---- windows


def test_a_window_is_the_frame_itself_and_its_border_outside():
    frame = torch.arange(48, dtype=torch.uint8).view(1, 6, 8)
    cut = windows(frame, torch.tensor([4.0, 3.0]), torch.tensor([[4.0, 4.0]]), 4)
    torch.testing.assert_close(cut[0, 0], frame[0, 1:5, 2:6].float())
    corner = windows(frame, torch.tensor([0.0, 0.0]), torch.tensor([[4.0, 4.0]]), 4)
    torch.testing.assert_close(corner[0, 0, :2, :2], frame[0, :1, :1].float().expand(2, 2))
    torch.testing.assert_close(corner[0, 0, 2:, 2:], frame[0, :2, :2].float())


def test_windows_of_two_sizes_are_brought_to_one():
    frame = torch.rand(3, 20, 30)
    cut = windows(frame, torch.tensor([15.0, 10.0]), torch.tensor([[8.0, 8.0], [16.0, 16.0]]), 8)
    assert cut.shape == (2, 3, 8, 8)
    pooled = torch.nn.functional.avg_pool2d(frame[None, :, 2:18, 7:23], 2)
    torch.testing.assert_close(cut[1], pooled[0])


# ---- files of boxes


def test_boxes_are_read_with_any_gap_and_written_as_they_were(tmp_path):
    path = tmp_path / "boxes.txt"
    path.write_text("1,2,3,4\n5\t6\t7.5\t8\n9 10 11 12\nnan,nan,nan,nan\n")
    boxes = read_boxes(path)
    assert boxes[:3].tolist() == [[0, 1, 3, 4], [4, 5, 7.5, 8], [8, 9, 11, 12]]
    assert boxes[3].isnan().all()
    assert otb_lines(boxes[:2]) == "1.00,2.00,3.00,4.00\n5.00,6.00,7.50,8.00\n"
    assert box_of("1,1,5,6").tolist() == [0, 0, 5, 6]


@pytest.mark.parametrize("line", ["1,2,3", "a,b,c,d", "1,2,3,4,5", ""])
def test_a_line_that_is_no_box_is_named(line, tmp_path):
    path = tmp_path / "walk" / "groundtruth_rect.txt"
    path.parent.mkdir()
    path.write_text(f"1,2,3,4\n{line}\n5,6,7,8\n")
    with pytest.raises(ValueError, match=r"sequence walk, line 2 of .* is no box"):
        read_boxes(path)


# ---- folders


def test_a_folder_of_sequences_or_one_sequence_with_frames_in_it_or_in_img(tmp_path):
    sequence(tmp_path / "many" / "b")
    sequence(tmp_path / "many" / "a", boxes=None)
    for name, path, found in (("many", tmp_path / "many", ["a", "b"]), ("one", tmp_path / "many" / "b", ["b"])):
        data = ready(VideoFolder(str(path)))
        assert [v.name for v in data._ready().train] == found, name
        assert [v.name for v in data._ready().test] == ["b"]  # the annotated one
    flat = tmp_path / "flat"
    shutil.copytree(tmp_path / "many" / "b" / "img", flat)
    (video,) = ready(VideoFolder(str(flat)))._ready().train
    assert len(video) == 4
    assert video.boxes is None
    assert video.frame(0).shape == (3, 30, 40)


def one_frame(root):
    sequence(root / "walk", frames=1)


def lines(root):
    (sequence(root / "walk") / "groundtruth_rect.txt").write_text("3,4,8,6\n" * 3)


def outside(root):
    (sequence(root / "walk") / "groundtruth_rect.txt").write_text("3,4,8,6\n" * 2 + "41,4,8,6\n3,4,8,6\n")


def no_area(root):
    (sequence(root / "walk") / "groundtruth_rect.txt").write_text("3,4,8,6\n" * 3 + "3,4,0,6\n")


def no_start(root):
    (sequence(root / "walk") / "groundtruth_rect.txt").write_text("nan,nan,nan,nan\n" + "3,4,8,6\n" * 3)


def empty(root):
    (root / "walk" / "img").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (one_frame, "sequence walk has one frame only"),
        (lines, "sequence walk: 3 lines in .* but 4 frames: frame 4 is the first"),
        (outside, r"sequence walk, frame 3: the box 41,4,8,6 lies outside of the frame of 40 x 30"),
        (no_area, "sequence walk, frame 4: the box 3,4,0,6 has no area"),
        (no_start, "sequence walk, frame 1: the box .* is not known"),
        (empty, "there is no sequence in"),
    ],
)
def test_a_bad_sequence_is_named_with_its_frame(spoil, words, tmp_path):
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        ready(VideoFolder(str(tmp_path)))


def test_a_frame_that_cannot_be_read_or_has_another_size_is_named(tmp_path):
    folder = sequence(tmp_path / "walk")
    (folder / "img" / "0002.png").write_bytes(b"no picture")
    Image.new("RGB", (20, 30)).save(folder / "img" / "0003.png")
    (video,) = ready(VideoFolder(str(tmp_path)))._ready().train
    assert video.frame(0).shape == (3, 30, 40)
    with pytest.raises(ValueError, match=r"sequence walk, frame 2: cannot read .*0002.png"):
        video.frame(1)
    with pytest.raises(ValueError, match=r"sequence walk, frame 3: .* has 20 x 30 pixels, but frame 1 has 40 x 30"):
        video.frame(2)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nothere"):
        VideoFolder(str(tmp_path / "nothere"))


# ---- digits


def test_parts_share_no_digit_and_the_target_s_class_is_its_own():
    train, val, test = (set(rows_of(part).tolist()) for part in ("train", "val", "test"))
    assert len(train) + len(val) + len(test) == len(train | val | test) == 1797
    assert len(val) == len(test) == 360
    ink, classes = digits()
    places = {tuple(picture.flatten().tolist()): i for i, picture in enumerate(ink)}
    for number in range(10):
        video = DigitVideo("val", number, 3)
        rows = [places[tuple(picture.flatten().tolist())] for picture in video.ink]
        assert len(rows) == DISTRACTORS + 1
        assert classes[rows[-1]] not in classes[rows[:-1]]


def test_videos_are_the_same_ones_every_time_and_differ():
    one, again, other = DigitVideo("train", 3, 5), DigitVideo("train", 3, 5), DigitVideo("train", 5, 5)
    assert torch.equal(one.frame(4), again.frame(4))
    assert torch.equal(one.boxes, again.boxes)
    assert not torch.equal(one.frame(4), other.frame(4))
    assert one.frame(0).shape == (3, 96, 128)


def test_the_box_holds_the_target():
    """Without light, noise and the other digits a frame differs from its background inside of the box only."""
    video = DigitVideo("train", 0, 6)
    video._lit = lambda frames, rng: frames
    with_target = video._draw()
    video.ink = video.ink * 0
    others = DigitVideo("train", 0, 6)
    others.ink = others.ink * torch.tensor([0.0] * DISTRACTORS + [1.0])[:, None, None]
    others._lit = video._lit
    changed = (others._draw() - video._draw()).abs().amax(1) > 40  # the ink, not its dark edge
    for seen, (x, y, w, h), side in zip(changed, video.boxes.tolist(), video.sides[-1], strict=True):
        rows, columns = torch.nonzero(seen, as_tuple=True)
        near = side / 16 + 1.5  # ink fades out over half a cell
        assert y - near <= rows.min()
        assert rows.max() <= y + h + near
        assert x - near <= columns.min()
        assert columns.max() <= x + w + near
        assert columns.max() - columns.min() > 0.4 * w
    assert not torch.equal(with_target, others._draw())


# ---- what is learned from


def cut(data, epoch=0, rows=range(8), **crops):
    part = ready(data)._ready().train
    found = Windows(part, Crops(**crops), data.image_size, data.max_gap, data.box_sizes, data.seed)
    return found[[epoch, *rows]]


def tiny(**changes):
    return MovingDigits(**{"train_videos": 2, "length": 12, "image_size": 16, "batch_size": 4, "seed": 0, **changes})


def test_draws_depend_on_seed_epoch_and_sample_alone():
    whole = cut(tiny())
    part = cut(tiny(), rows=[5, 2])
    assert torch.equal(whole.frames[[5, 2]], part.frames)
    assert not torch.equal(whole.frames, cut(tiny(), epoch=1).frames)
    assert not torch.equal(whole.frames, cut(tiny(seed=1)).frames)
    assert whole.frames.shape == (8, 3, 3, 16, 16)
    assert whole.frames.dtype == torch.uint8


def test_the_annotated_target_is_in_the_middle_third_of_the_template():
    batch = cut(tiny(), frames=2, boxes="annotated")
    third = 16 / 3
    assert batch.box.shape == (8, 2, 4)
    torch.testing.assert_close(batch.box[:, 0], torch.full((8, 4), third), atol=1e-4, rtol=0)
    assert (batch.box[:, 1] - batch.box[:, 0]).abs().max() > 1  # it has moved
    video = tiny()
    frames = ready(video)._ready().train[0]
    middle = batch.frames[0, 0, :, 6:10, 6:10].float().mean()
    x, y, w, h = frames.boxes[0].round().long().tolist()
    assert middle == pytest.approx(frames.frame(0)[:, y : y + h, x : x + w].float().mean().item(), abs=40)


def test_later_frames_are_at_most_max_gap_away_and_in_the_video(tmp_path):
    """Grey levels tell the frames' numbers."""
    (tmp_path / "img").mkdir()
    for i in range(20):
        Image.new("RGB", (30, 30), (10 * i,) * 3).save(tmp_path / "img" / f"{i:02d}.png")
    seen = cut(VideoFolder(str(tmp_path), image_size=8, max_gap=3, seed=0), rows=range(19)).frames
    number = (seen[:, :, 0, 0, 0].float() / 10).round().long()
    gaps = number - number[:, :1]
    assert number[:, 0].tolist() == list(range(19))
    assert set(gaps[:16, 1:].flatten().tolist()) == {1, 2, 3}
    assert number.max() == 19
    assert (gaps[:16, 1] != gaps[:16, 2]).any()  # each drawn for itself


def test_random_boxes_lie_in_the_frame():
    data = ready(tiny(box_sizes=(0.1, 0.5)))
    windowed = Windows(data._ready().train, Crops(), 16, 10, data.box_sizes, 0)
    frame = data._ready().train[0].frame(0)
    for draws in torch.rand(50, 3).tolist():
        x, y, w, h = windowed.box(data._ready().train[0], 0, frame, draws)
        assert x >= 0
        assert x + w <= 128
        assert y >= 0
        assert y + h <= 96
        assert 9.6 <= w == h <= 48


def test_the_richest_box_is_where_the_detail_is():
    frame = torch.full((3, 60, 90), 100, dtype=torch.uint8)
    frame[:, 35:45, 45:60] = torch.randint(256, (3, 10, 15), dtype=torch.uint8)
    x, y, w, h = richest(frame)
    assert (w, h) == (15, 10)
    assert abs(x - 45) <= 4
    assert abs(y - 35) <= 3


def test_further_sequences_are_learned_from_and_their_boxes_not_read(tmp_path):
    (sequence(tmp_path / "walk") / "groundtruth_rect.txt").write_text("no boxes\n")
    data = ready(tiny(unlabelled=[str(tmp_path)]))
    assert len(data.train_dataloader().dataset) == 2 * 11 + 3
    assert data._ready().train[-1].boxes is None
    assert [len(part) for part in data._ready()] == [3, 20, 30]


def test_annotated_boxes_need_annotated_videos(tmp_path):
    sequence(tmp_path / "walk", boxes=None)
    data = ready(VideoFolder(str(tmp_path), boxes="annotated"))
    with pytest.raises(ValueError, match="sequence walk is not annotated"):
        data.train_dataloader()


@pytest.mark.parametrize(
    "wrong", [{"box_sizes": (0.5, 0.2)}, {"max_gap": 0}, {"length": 1}, {"image_size": 4}, {"train_videos": 0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        tiny(**wrong)
