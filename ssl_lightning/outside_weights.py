"""Weights that other programs have written, for a network that the user names: plain state dicts of torchvision and
timm, and checkpoints of other frameworks, which keep the network under some prefix."""

import pickle
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ssl_lightning.backbones import Backbone
from ssl_lightning.backbones.stems import small_stem
from ssl_lightning.export import is_ours, read_safetensors

# what follows the features in the files of classifiers and of self-supervised methods: torchvision's, timm's, theirs
HEADS = re.compile(
    r"(fc|head|heads|head_dist|classifier|last_linear|linear|aux\w*|AuxLogits|pre_logits|proj\w*|pred\w*"
    r"|prototypes|queue\w*|decoder\w*|mask_token)(\.|$)"
)
TEACHER = re.compile(r"teacher|momentum|target|encoder_k|key_encoder|(^|[._])ema([._]|$)")
OF_DENSENETS = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # norm.1 for norm1, in torchvision's own files
SHOWN = 3  # keys in an error
CONVERSION = """\
    import torch
    from safetensors.torch import save_file
    def tensors(of, name=""):
        of = of.state_dict() if hasattr(of, "state_dict") else of
        if torch.is_tensor(of):
            yield name[:-1], of.clone(memory_format=torch.contiguous_format)
        for key, inside in of.items() if isinstance(of, dict) else ():
            yield from tensors(inside, f"{{name}}{{key}}.")
    content = torch.load({source!r}, map_location="cpu", weights_only=False)
    save_file(dict(tensors(content)), {target!r})"""


class Found(NamedTuple):
    """A network's weights in a file.

    Args:
        prefix: Of their names there, such as "backbone.".
        state: By the names of the network, what does not fit it included.
        left_out: Names of a classifier or another head.
    """

    prefix: str
    state: dict[str, Tensor]
    left_out: list[str]


def load_outside(backbone: Backbone, path: str, which: Literal["student", "teacher"] = "student") -> None:
    """Load the weights of a file into a backbone, all but its normalisation of images, which stays.

    Args:
        backbone: Of the network that the file is of.
        path: A state dict of torchvision or timm, or a checkpoint that has one in it, as .safetensors or written by
            torch.save.
        which: Of a file that holds a network and its moving average, such as MoCo's encoder_q and encoder_k.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or does not load safely, is one of ours, or holds other weights.
    """
    tensors, ours = read_tensors(path)
    if ours:
        raise ValueError(f"drop backbone={backbone.recipe['name']}: the checkpoint {path} says which backbone it holds")
    tensors = {OF_DENSENETS.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
    found = find(backbone.net, tensors, which)
    if found is None:
        network = "teacher" if which == "teacher" else "network"
        raise ValueError(
            f"{path} holds no {network} with the names of {backbone.name}, {first(backbone.net.state_dict())}: it has "
            f"{first(tensors) or 'no tensors'}"
        )
    load(backbone, found.state, path)
    left_out = f"; left out: {first(found.left_out)}" if found.left_out else ""
    rank_zero_info(f"{len(found.state)} tensors {found.prefix}* of {path} for {backbone.name}{left_out}")


def load(backbone: Backbone, state: dict[str, Tensor], path: str) -> None:
    """Load weights by the names of the backbone's `net`, or by earlier ones of timm's, and for images of another size.

    Where the network has a norm of the mean over patches (`fc_norm`, of timm's vision transformers), weights with one
    before the mean (`norm`) fit too, and that norm stays new.

    Raises:
        ValueError: they are not the network's.
    """
    if misfits(backbone.net, state):
        state = by_timm(backbone.net, state)
    if wrong := misfits(backbone.net, state):
        args = {k: v for k, v in backbone.recipe.items() if k not in ("name", "image_size", "in_channels")}
        raise ValueError(
            f"the weights of {path} do not fit {backbone.name} with backbone_args {args}: {'; '.join(wrong)}"
            f"{way_out(backbone, state)}"
        )
    whole = backbone.net.state_dict()  # with the versions of its modules, which some want to know
    whole.update((name, tensor) for name, tensor in state.items() if name in whole)
    backbone.net.load_state_dict(whole)


def misfits(net: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Words for what keeps weights from being those of a network; none where they are."""
    ours = net.state_dict()
    missing = [key for key in ours if key not in state and not key.endswith("num_batches_tracked")]  # older files
    unexpected = [key for key in state if key not in ours]
    for norm in [key for key in unexpected if key.startswith("norm.") and f"fc_{key}" in missing]:
        unexpected.remove(norm)
        missing.remove(f"fc_{norm}")
    shapes = [(key, tuple(state[key].shape), tuple(ours[key].shape)) for key in ours if key in state]
    others = [f"{key} {theirs}, here {here}" for key, theirs, here in shapes if theirs != here]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": others}
    return [f"{kind}: {first(keys)}" for kind, keys in kinds.items() if keys]


def way_out(backbone: Backbone, state: dict[str, Tensor]) -> str:
    """What to do where the weights of the first convolution are of another stem, or for other images."""
    kernels = ((tensor.shape, state[key].shape) for key, tensor in backbone.net.state_dict().items() if key in state)
    ours, theirs = next((pair for pair in kernels if len(pair[0]) == len(pair[1]) == 4), ([], []))
    if ours[2:] != theirs[2:] and small_stem(backbone.net) is not None:
        return f". It has the other stem: --model.backbone_args.small_stem {str(not backbone.small_stem).lower()}"
    if ours[1:2] != theirs[1:2]:
        return f". It is for images of {theirs[1]} channels: give it such data"
    return ""


def find(net: nn.Module, tensors: Mapping[str, Tensor], which: Literal["student", "teacher"]) -> Found | None:
    """The weights under the prefix under which most names are a network's; None: it is less than half of its names."""
    named = {key: key for key in net.state_dict()}
    best: tuple[tuple[int, bool, int], str, dict[str, str]] | None = None
    for names in (named, numbered(net)):
        for prefix, count in Counter(prefixes(tensors, names)).items():
            student = TEACHER.search(prefix) is None
            rank = (count, student, -len(prefix))
            if 2 * count >= len(named) and (which == "student" or not student) and (best is None or rank > best[0]):
                best = rank, prefix, names
    if best is None:
        return None
    _, prefix, names = best
    state, left_out = {}, []
    for key, tensor in tensors.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            if name not in names and HEADS.match(name):
                left_out.append(key)
            else:
                state[names.get(name, name)] = tensor
    return Found(prefix, state, left_out)


def numbered(net: nn.Module) -> dict[str, str]:
    """Names of the tensors in a Sequential of the network's children -> in the network: so lightly keeps ResNets."""
    places = {name: str(place) for place, (name, _) in enumerate(net.named_children())}
    parts = {key: key.partition(".") for key in net.state_dict()}
    return {f"{places.get(child, child)}{dot}{rest}": key for key, (child, dot, rest) in parts.items()}


def prefixes(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> Iterator[str]:
    """For each tensor whose name ends in one of the names, what stands before it."""
    for key in tensors:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in names:
                yield "".join(f"{part}." for part in parts[:i])


def by_timm(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What timm's own loader makes of weights for one of its networks: earlier names become those of today, position
    embeddings and patches of another size are resampled."""
    module = type(net).__module__
    convert = getattr(sys.modules[module], "checkpoint_filter_fn", None) if module.startswith("timm.") else None
    return state if convert is None else convert(state, net)


def read_tensors(path: str) -> tuple[dict[str, Tensor], bool]:
    """Every tensor of a file by its dotted name, those inside of dicts too, and whether ssl_lightning wrote the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or does not load safely.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if Path(path).suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        return tensors, "backbone_args" in metadata
    zipped = zipfile.is_zipfile(path)  # else of torch before 1.6
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not zipped and what is None:
            raise ValueError(f"{path} is no file of weights") from error
        target, named = Path(path).with_suffix(".safetensors").name, f", {what[1]}" if what else ""
        raise ValueError(
            f"{path} does not load safely: it holds more than weights and plain values{named}. If you trust whoever "
            f"made it (these lines run what it says), convert it once and give {target} in its place:\n"
            + CONVERSION.format(source=str(path), target=target)
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise ValueError(f"{path} is no whole file of weights: {reason}") from error
    return dict(inside(content)), is_ours(content)


def inside(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts."""
    if isinstance(content, Tensor):
        yield prefix[:-1], content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from inside(value, f"{prefix}{key}.")


def first(names: Collection[str]) -> str:
    """Words for the first of many names."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more
