"""Your own videos: folders of frames."""

from pathlib import Path
from typing import Any

from datamodules.video import Video, find_videos
from datamodules.videos import VideoData, Videos


class VideoFolder(VideoData):
    """Folders of frames as in OTB: one sequence, or a folder of such. The frames of a sequence lie in it or in its
    ``img/``, in the order of their names, and have one size; with ``groundtruth_rect.txt``, a line ``x,y,width,height``
    for each frame (the first column is number 1; ``nan,nan,nan,nan`` where the target is not to be seen), it is
    annotated.

    Args:
        root: The sequences to learn from.
        val_root: Sequences that are scored while training, as far as they are annotated. None: none are.
        test_root: Sequences for `test`, as far as they are annotated. None: those of `root`.
        keep: Keep frames in memory once they are read.
        kwargs: Windows, batches and order, see VideoData.

    Raises:
        FileNotFoundError: there is no such folder, or no sequence in it.
        ValueError: when the run starts, a sequence has one frame only, annotation that does not match its frames, or a
            box without area or outside of the frame; while it runs, a frame cannot be read or has another size.
    """

    def __init__(
        self,
        root: str,
        val_root: str | None = None,
        test_root: str | None = None,
        keep: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.val_root, self.test_root, self.keep = root, val_root, test_root, keep
        for name in (root, val_root, test_root, *self.unlabelled):
            if name is not None and not Path(name).is_dir():
                raise FileNotFoundError(f"there is no folder {Path(name).absolute()}")

    def videos(self) -> Videos:
        train: list[Video] = [*find_videos(Path(self.root), keep=self.keep)]
        return Videos(train, self._annotated(self.val_root, []), self._annotated(self.test_root, train))

    def _annotated(self, root: str | None, otherwise: list[Video]) -> list[Video]:
        videos: list[Video] = otherwise if root is None else [*find_videos(Path(root), keep=self.keep)]
        return [video for video in videos if video.boxes is not None]
