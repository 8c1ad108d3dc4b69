"""Data sets of torchvision: downloaded by one process at a time, errors say what to do without a network."""

from pathlib import Path
from typing import Any

from filelock import FileLock
from torchvision.datasets import CIFAR10, STL10

Archive = type[CIFAR10] | type[STL10]


def download(archive: Archive, root: str, **kwargs: Any) -> None:
    """Downloads and unpacks a data set below `root` if it is not there.

    Args:
        archive: torchvision's class.
        root: The folder.
        kwargs: For the class, as needed to construct it.

    Raises:
        FileNotFoundError: if it is not there and cannot be downloaded.
    """
    folder = Path(root).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{archive.base_folder}.lock"):
        try:
            archive(folder, download=True, **kwargs)
        except (OSError, RuntimeError) as error:  # no network; a file with the wrong checksum
            raise FileNotFoundError(
                f"{archive.__name__} is not in {folder.absolute()} and could not be downloaded: {error}; put "
                f"{archive.filename} from {archive.url} (md5 {archive.tgz_md5}) into that folder"
            ) from error


def load(archive: Archive, root: str, **kwargs: Any) -> Any:
    """A part of a data set that `download` has brought.

    Args:
        archive: torchvision's class.
        root: The folder.
        kwargs: For the class: which part.

    Returns:
        An instance of the class.

    Raises:
        FileNotFoundError: if it is not there or not complete.
    """
    folder = Path(root).expanduser()
    try:
        return archive(folder, **kwargs)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{archive.__name__} is not in {folder.absolute()}: call prepare_data() first, which downloads it"
        ) from error
