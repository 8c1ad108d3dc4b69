"""The trained backbone, out of a checkpoint: as a module, or as a file that torchvision and timm can read."""

import json
import os
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssl_lightning.backbones import Backbone, build
from ssl_lightning.clip_weights import write_weights
from ssl_lightning.hugging_face import write_bert

NetLayout = Literal["native", "torchvision", "timm"]
LAYOUTS = ("native", "torchvision", "timm", "transformers", "open_clip")


class ForeignFileError(ValueError):
    """A file that ssl_lightning has not written."""


def load_backbone(checkpoint: str | Path, which: Literal["student", "teacher"] = "student") -> Backbone:
    """Build the backbone that a checkpoint holds, with its trained weights, in evaluation mode on the CPU.

    Args:
        checkpoint: A checkpoint written by `ssl-lightning fit`, or a .safetensors file by `ssl-lightning export`.
        which: "student" is the network that was trained; "teacher" is its moving average, in methods that
            keep one.

    Returns:
        The backbone: it takes images (B, C, H, W) float in [0, 1] and gives features (B, dim).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a checkpoint of ssl_lightning, or holds no such backbone.
    """
    recipe, state = read_backbone(checkpoint, which)
    backbone = build(**recipe)
    backbone.load_state_dict(state)
    return backbone.eval()


def read_backbone(
    checkpoint: str | Path, which: Literal["student", "teacher"] = "student"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments of `build` for the backbone that a checkpoint holds, and its state dict.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a checkpoint of ssl_lightning, or holds no such backbone.
    """
    if Path(checkpoint).suffix == ".safetensors":
        return _read_exported(checkpoint, which)
    content = read_checkpoint(checkpoint)
    recipe = content["ssl_lightning"].get("backbone")
    method = content["ssl_lightning"]["class_path"]
    if recipe is None:
        raise ValueError(f"{checkpoint} holds no image backbone: it is of {method}")
    prefix = {"student": "backbone.", "teacher": "teacher_backbone."}.get(which)
    if prefix is None:
        raise ValueError(f'which must be "student" or "teacher", got {which!r}')
    state = content["state_dict"]
    state = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    if not state:
        raise ValueError(f"{checkpoint} holds no {which}: {method} has none")
    return recipe, state


def _read_exported(path: str | Path, which: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors, metadata = read_safetensors(path)
    if "backbone_args" not in metadata:
        raise ForeignFileError(
            f"{path} was not written by ssl-lightning export: it does not say which network it is of"
        )
    if which != metadata["which"] and which != "student":
        raise ValueError(f"{path} holds no {which}: it was exported with --which {metadata['which']}")
    said = {key: json.loads(metadata[key]) for key in ("in_channels", "image_size", "small_stem", "mean", "std")}
    name = f"{metadata['library']}/{metadata['architecture']}"
    buffers = {key: torch.tensor(said[key]).view(1, -1, 1, 1) for key in ("mean", "std")}
    state = buffers | {f"net.{key}": tensor for key, tensor in tensors.items()}
    return {"name": name, **json.loads(metadata["backbone_args"]), **said}, state


def export(
    checkpoint: str | Path,
    output: str | Path,
    which: Literal["student", "teacher"] = "student",
    layout: NetLayout | Literal["transformers", "open_clip"] = "native",
) -> dict[str, str]:
    """Write a checkpoint's backbone as safetensors, under its own library's parameter names; a BERT as a folder of
    transformers, with its heads and its tokenizer; a whole CLIP, with text encoder and tokenizer, as a folder of
    transformers or open_clip.

    The file holds the trunk without a classifier, and as metadata what one needs to use it: library,
    architecture, in_channels, image_size, small_stem, lightness (whether the network takes L / 100 of CIE Lab in
    place of RGB), backbone_args, dim, mean and std (of images in [0, 1]), method, which and version; all but the
    names are in JSON. It is written whole or not at all.

    Args:
        checkpoint: A checkpoint written by `ssl-lightning fit`.
        output: The file to write, ending in .safetensors. A file of this name is replaced; folders are made. Of BERT
            and of a whole CLIP: a new folder.
        which: "student" is the network that was trained; "teacher" is its moving average, in methods that
            keep one.
        layout: Whose parameter names to use. "native" keeps those of the library that the backbone comes
            from. The other library's are used where it has the same network, which is checked by comparing
            features: so for ResNets and DenseNets. "transformers" and "open_clip" are for CLIP.

    Returns:
        The metadata; none of BERT and of a whole CLIP, whose folders have a configuration.

    Raises:
        FileExistsError: if there is such a folder.
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is not a checkpoint of ssl_lightning, holds no such backbone, the layout's library
            does not have the same network, or output does not end in .safetensors.
    """
    content = read_checkpoint(checkpoint)
    written_by = content["ssl_lightning"]
    if layout in ("transformers", "open_clip"):
        if not written_by["class_path"].endswith(".CLIP") or which != "student":
            raise ValueError(
                f"layout={layout} is for a CLIP, which has no teacher: {checkpoint} is of {written_by['class_path']}"
            )
        write_weights(written_by["init_args"], content["state_dict"], written_by["tokenizer"], output, layout)
        return {}
    if (config := written_by.get("bert")) is not None:
        if (which, layout) != ("student", "native"):
            raise ValueError("a BERT has no teacher and one layout, that of transformers: drop --which and --layout")
        state = {k: v for k, v in content["state_dict"].items() if k.startswith(("bert.", "cls."))}
        write_bert(config, state, written_by["tokenizer"], output)
        return {}
    output = Path(output)
    if output.suffix != ".safetensors":
        raise ValueError(f"output must end in .safetensors, got {output}")
    backbone = load_backbone(checkpoint, which)
    arguments = {k: v for k, v in backbone.recipe.items() if k not in ("name", "in_channels", "image_size")}
    if layout not in ("native", backbone.library):
        backbone = _in_layout(backbone, layout)
    metadata = {
        "format": "pt",
        "library": backbone.library,
        "architecture": backbone.architecture,
        "in_channels": json.dumps(backbone.in_channels),
        "image_size": json.dumps(backbone.image_size),
        "small_stem": json.dumps(backbone.small_stem),
        "lightness": json.dumps(backbone.lightness),
        "backbone_args": json.dumps(arguments),
        "dim": json.dumps(backbone.dim),
        "mean": json.dumps(backbone.mean.flatten().tolist()),
        "std": json.dumps(backbone.std.flatten().tolist()),
        "method": written_by["class_path"],
        "which": which,
        "version": written_by["version"],
    }
    # safetensors takes no other memory format: weights trained in channels_last are not contiguous.
    tensors = {key: tensor.contiguous() for key, tensor in backbone.net.state_dict().items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        partial.write_bytes(save(tensors, metadata))  # save_file makes files that only their owner can read
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return metadata


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint that ssl_lightning wrote, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or was not written by ssl_lightning.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        # mmap: the optimizer's state, often most of the file, is not read
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ForeignFileError(f"{path} does not load safely: it holds more than weights and plain values") from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise ForeignFileError(f"{path} is not a whole checkpoint") from error
    if not is_ours(content):
        raise ForeignFileError(f"{path} was not written by ssl-lightning: it does not say which method it is of")
    return content


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole file of safetensors: {error}") from error


def is_ours(content: Any) -> bool:
    """Whether a checkpoint was written here."""
    return isinstance(content, dict) and "ssl_lightning" in content


def _in_layout(backbone: Backbone, layout: str) -> Backbone:
    """Load the weights into the other library's network of this name; refuse where it is another function."""
    if layout not in ("torchvision", "timm"):
        raise ValueError(f'layout must be "native", "torchvision" or "timm", got {layout!r}')
    refusal = f"{layout} has no network with the weights of {backbone.name}: export with layout=native"
    try:
        name = f"{layout}/{backbone.architecture.partition('.')[0]}"
        other = build(**{**backbone.recipe, "name": name}).eval()
        other.load_state_dict(backbone.state_dict())
    except (RuntimeError, ValueError) as error:
        raise ValueError(refusal) from error
    x = torch.rand(2, backbone.in_channels, backbone.image_size, backbone.image_size)
    with torch.no_grad():
        if not torch.allclose(other(x), backbone(x), rtol=1e-3, atol=1e-4):
            raise ValueError(refusal)
    return other
