"""CLIP models of transformers and of open_clip: read into ours, and ours written as theirs."""

import json
import math
import re
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from callbacks.results import atomic_folder
from datamodules.byte_pairs import END, START

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
Layout = Literal["transformers", "open_clip"]
TOWER = "vit_base_patch32_clip_224", "vit_base_patch32_clip_quickgelu_224"  # timm's, of which any size is built
LEGACY_END = 2  # in transformers: the end token is the largest number

# names of open_clip -> of ours: timm's for the images
_VISUAL = [
    (r"^visual\.conv1\.", "backbone.net.patch_embed.proj."),
    (r"^visual\.class_embedding$", "backbone.net.cls_token"),
    (r"^visual\.positional_embedding$", "backbone.net.pos_embed"),
    (r"^visual\.ln_pre\.", "backbone.net.norm_pre."),
    (r"^visual\.ln_post\.", "backbone.net.norm."),
    (r"^visual\.proj$", "image_projection.weight"),
    (r"^visual\.transformer\.resblocks\.(\d+)\.", r"backbone.net.blocks.\1."),
    (r"^(backbone.*)\.ln_([12])\.", r"\1.norm\2."),
    (r"^(backbone.*)\.attn\.in_proj_", r"\1.attn.qkv."),
    (r"^(backbone.*)\.attn\.out_proj\.", r"\1.attn.proj."),
    (r"^(backbone.*)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
    (r"^(backbone.*)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
]
_TEXT = r"^(token_embedding|positional_embedding|transformer|ln_final|text_projection)"
# names of open_clip -> of transformers
_BLOCK = [("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")]
_BLOCK += [("attn.out_proj", "self_attn.out_proj")]
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
    **{
        f"{ours}.{kind}": f"{theirs}.{kind}"
        for ours, theirs in {
            "visual.ln_pre": "vision_model.pre_layrnorm",  # sic
            "visual.ln_post": "vision_model.post_layernorm",
            "ln_final": "text_model.final_layer_norm",
        }.items()
        for kind in ("weight", "bias")
    },
}
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
# open_clip's settings that we read, or that change no feature of images and texts
_VISION_CFG = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout"}
_TEXT_CFG = {"context_length", "vocab_size", "width", "heads", "layers", "hf_tokenizer_name", "tokenizer_kwargs"}


def to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights named by open_clip (of its CLIP and of its CustomTextCLIP) -> named by our `CLIP`."""
    renamed = {}
    for key, tensor in state.items():
        name = re.sub(_TEXT, r"text.\1", key)
        for theirs, ours in _VISUAL:
            name = re.sub(theirs, ours, name)
        if name == "image_projection.weight":
            tensor = tensor.T
        elif name.endswith("cls_token"):
            tensor = tensor[None, None]
        elif name.endswith("pos_embed"):
            tensor = tensor[None]
        renamed[name] = tensor
    renamed.pop("attn_mask", None)  # of early checkpoints
    return renamed


def to_open_clip(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`."""
    back = [("backbone.net.patch_embed.proj.", "visual.conv1."), ("backbone.net.cls_token", "visual.class_embedding")]
    back += [("backbone.net.pos_embed", "visual.positional_embedding"), ("backbone.net.norm_pre.", "visual.ln_pre.")]
    back += [("backbone.net.norm.", "visual.ln_post."), ("image_projection.weight", "visual.proj")]
    inner = [(".norm1.", ".ln_1."), (".norm2.", ".ln_2."), (".attn.qkv.", ".attn.in_proj_")]
    inner += [(".attn.proj.", ".attn.out_proj."), (".mlp.fc1.", ".mlp.c_fc."), (".mlp.fc2.", ".mlp.c_proj.")]
    renamed = {}
    for key, tensor in ours.items():
        if key in ("backbone.mean", "backbone.std"):
            continue
        name = key.removeprefix("text.")
        for mine, theirs in back:
            name = name.replace(mine, theirs)
        if name.startswith("backbone.net.blocks."):
            name = name.replace("backbone.net.blocks.", "visual.transformer.resblocks.")
            for mine, theirs in inner:
                name = name.replace(mine, theirs)
        if name == "visual.proj":
            tensor = tensor.T
        elif name in ("visual.class_embedding", "visual.positional_embedding"):
            tensor = tensor.reshape(tensor.shape[-1]) if name.endswith("class_embedding") else tensor[0]
        renamed[name] = tensor
    return renamed


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights named by transformers' CLIPModel -> by open_clip."""
    names = {theirs: ours for ours, theirs in _NAMES.items()}
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in names:
            renamed[names[key]] = tensor.T if key in _TRANSPOSED else tensor
        elif found := re.match(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)$", key):
            tower, layer, inside, kind = found.groups()
            block = f"{'visual.' * (tower == 'vision')}transformer.resblocks.{layer}"
            if inside == "self_attn.q_proj":
                parts = [state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
            elif inside not in ("self_attn.k_proj", "self_attn.v_proj"):
                inner = {theirs: ours for ours, theirs in _BLOCK}
                renamed[f"{block}.{inner[inside]}.{kind}"] = tensor
    return renamed


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_transformers`."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in _NAMES:
            renamed[_NAMES[key]] = tensor.T if _NAMES[key] in _TRANSPOSED else tensor
        elif found := re.match(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.*)[._](weight|bias)$", key):
            tower, layer, inside, kind = found.groups()
            block = f"{'vision' if tower else 'text'}_model.encoder.layers.{layer}"
            if inside == "attn.in_proj":
                for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{block}.self_attn.{part}_proj.{kind}"] = rows
            else:
                renamed[f"{block}.{dict(_BLOCK)[inside]}.{kind}"] = tensor
    return renamed


def read_weights(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments of our `CLIP` for a model of another library, and its weights under our names.

    Args:
        folder: Of transformers (config.json, model.safetensors) or of open_clip (open_clip_config.json and
            open_clip_model.safetensors or open_clip_pytorch_model.bin).

    Raises:
        FileNotFoundError: it holds neither.
        ValueError: it holds another kind of model.
    """
    folder = Path(folder)
    if (folder / "open_clip_config.json").is_file():
        return _read_open_clip(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"there is no config.json and no open_clip_config.json in {folder}: give a folder that transformers or "
            "open_clip has saved"
        )
    return _read_transformers(folder)


def _read_transformers(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != "clip":
        raise ValueError(f"{folder} holds a model of the kind {config.get('model_type')}, which is not clip")
    state = from_transformers(_weights(folder, "model.safetensors", "pytorch_model.bin"))
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    preprocess = _processor(folder)
    # what is missing has the defaults of CLIPTextConfig and CLIPVisionConfig
    end = text.get("eos_token_id", 49407)
    arguments = _arguments(
        state,
        image_size=vision.get("image_size", 224),
        heads=vision.get("num_attention_heads", 12),
        text_heads=text.get("num_attention_heads", 8),
        quick_gelu={
            text.get("hidden_act", "quick_gelu") == "quick_gelu",
            vision.get("hidden_act", "quick_gelu") == "quick_gelu",
        },
        end_token=None if end == LEGACY_END else end,
        folder=folder,
        mean=preprocess.get("image_mean"),
        std=preprocess.get("image_std"),
    )
    return arguments, to_ours(state)


def _processor(folder: Path) -> dict[str, Any]:
    """What transformers does to images before a model sees them; its versions name the file differently."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            found: dict[str, Any] = json.loads((folder / name).read_text())
            return found.get("image_processor") or found
    return {}


def _read_open_clip(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    whole = json.loads((folder / "open_clip_config.json").read_text())
    config, preprocess = whole["model_cfg"], whole.get("preprocess_cfg", {})
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text or not isinstance(vision.get("layers", 12), int):
        raise ValueError(f"{folder} holds a model that is not a vision transformer and a text transformer of CLIP's")
    for part, known in {"vision_cfg": _VISION_CFG, "text_cfg": _TEXT_CFG}.items():
        if other := sorted(config[part].keys() - known):
            raise ValueError(f"{folder} has {part}.{other[0]}, which a CLIP of OpenAI's kind has not")
    state = _weights(folder, "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    state = {key.removeprefix("text."): tensor for key, tensor in state.items()}
    arguments = _arguments(
        state,
        image_size=vision.get("image_size", 224),
        heads=vision.get("width", 768) // vision.get("head_width", 64),
        text_heads=text.get("heads", 8),
        quick_gelu={bool(config.get("quick_gelu", False))},
        end_token=None,
        folder=folder,
        mean=preprocess.get("mean"),
        std=preprocess.get("std"),
    )
    return arguments, to_ours(state)


def _arguments(
    state: dict[str, Tensor],
    image_size: int,
    heads: int,
    text_heads: int,
    quick_gelu: set[bool],
    end_token: int | None,
    folder: Path,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> dict[str, Any]:
    if len(quick_gelu) > 1:
        raise ValueError(f"{folder} has two activations, which one `quick_gelu` cannot say")
    (quick,) = quick_gelu
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        vocab_size, text_width = state["token_embedding.weight"].shape
        blocks = {
            tower: len({key.split(".resblocks.")[1].split(".")[0] for key in state if key.startswith(tower)})
            for tower in ("visual.transformer.resblocks.", "transformer.resblocks.")
        }
        return {
            "backbone": TOWER[quick],
            "backbone_args": {
                "patch_size": patch,
                "embed_dim": width,
                "depth": blocks["visual.transformer.resblocks."],
                "num_heads": heads,
                "mlp_ratio": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0] / width,
                "mean": mean or CLIP_MEAN,
                "std": std or CLIP_STD,
            },
            "image_size": image_size,
            "embed_dim": state["text_projection"].shape[1],
            "text_width": text_width,
            "text_layers": blocks["transformer.resblocks."],
            "text_heads": text_heads,
            "quick_gelu": quick,
            "vocab_size": vocab_size,
            "max_tokens": state["positional_embedding"].shape[0],
            "end_token": vocab_size - 1 if end_token is None else end_token,
        }
    except KeyError as error:
        raise ValueError(f"{folder} has no {error}: it holds no CLIP of a vision transformer") from error


def _weights(folder: Path, *names: str) -> dict[str, Tensor]:
    for name in names:
        if (folder / name).is_file():
            if name.endswith(".safetensors"):
                return load_file(folder / name)
            return dict(torch.load(folder / name, map_location="cpu", weights_only=True))
    raise FileNotFoundError(f"there is no {' and no '.join(names)} in {folder}")


def write_weights(
    arguments: dict[str, Any], ours: dict[str, Tensor], tokenizer: str | None, output: str | Path, layout: Layout
) -> None:
    """Write a folder that the other library reads: with `CLIPModel.from_pretrained` of transformers, or with
    `open_clip.create_model("local-dir:FOLDER")`.

    Args:
        arguments: Of our `CLIP`.
        ours: Its state dict.
        tokenizer: JSON of the tokenizer; None: none is written.
        output: The folder; it is made.
        layout: The library.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: the library has no such model.
    """
    kept = {key: tensor for key, tensor in ours.items() if key.startswith(("backbone.", "text.", "image_", "logit_"))}
    state = to_open_clip(kept)
    name = arguments["backbone"].removeprefix("timm/")
    if not re.fullmatch(r"vit_\w+_clip_\w+", name) or "backbone.net.norm_pre.weight" not in ours:
        raise ValueError(f"{layout} has no CLIP on {name}: its images go through a vit_*_clip_* of timm")
    if ("quickgelu" in name) != arguments["quick_gelu"]:
        raise ValueError(
            f"{name} and quick_gelu={arguments['quick_gelu']} are two activations, {layout} has one for both"
        )
    if "logit_bias" in ours:
        raise ValueError(f"{layout} keeps no bias beside the scale of a CLIP: this one was trained with loss=siglip")
    if layout == "open_clip" and arguments["end_token"] != arguments["vocab_size"] - 1:
        raise ValueError(
            f"open_clip takes the text's output at the largest number, {arguments['vocab_size'] - 1}, and the end "
            f"token is {arguments['end_token']}"
        )
    width, _, patch, _ = state["visual.conv1.weight"].shape
    depth = 1 + max(int(k.split(".")[3]) for k in state if k.startswith("visual.transformer.resblocks."))
    heads = (arguments["backbone_args"] or {}).get("num_heads", width // 64)
    mlp = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    text = {key: arguments[f"text_{key}"] for key in ("width", "layers", "heads")}
    mean, std = (ours[f"backbone.{key}"].flatten().tolist() for key in ("mean", "std"))
    texts = {}
    if tokenizer is not None:  # without a class transformers would build OpenAI's around the vocabulary
        special = {"bos_token": START, "eos_token": END, "pad_token": END}
        kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": arguments["max_tokens"], **special}
        texts = {"tokenizer.json": tokenizer, "tokenizer_config.json": json.dumps(kind)}
    if layout == "transformers":
        act = "quick_gelu" if arguments["quick_gelu"] else "gelu"
        config: dict[str, Any] = {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": arguments["embed_dim"],
            "logit_scale_init_value": math.log(1 / 0.07),
            "text_config": {
                "model_type": "clip_text_model",
                "hidden_size": text["width"],
                "intermediate_size": 4 * text["width"],
                "num_hidden_layers": text["layers"],
                "num_attention_heads": text["heads"],
                "max_position_embeddings": arguments["max_tokens"],
                "vocab_size": arguments["vocab_size"],
                "projection_dim": arguments["embed_dim"],
                "hidden_act": act,
                "eos_token_id": arguments["end_token"],
                "bos_token_id": None,
                "pad_token_id": 0,
            },
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": width,
                "intermediate_size": mlp,
                "num_hidden_layers": depth,
                "num_attention_heads": heads,
                "image_size": arguments["image_size"],
                "patch_size": patch,
                "projection_dim": arguments["embed_dim"],
                "hidden_act": act,
            },
        }
        size = arguments["image_size"]
        processor = {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": size},
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "image_mean": mean,
            "image_std": std,
        }
        texts |= {"config.json": json.dumps(config), "preprocessor_config.json": json.dumps(processor)}
        file, state = "model.safetensors", to_transformers(state)
    else:
        model: dict[str, Any] = {
            "embed_dim": arguments["embed_dim"],
            "quick_gelu": arguments["quick_gelu"],
            "vision_cfg": {
                "image_size": arguments["image_size"],
                "layers": depth,
                "width": width,
                "head_width": width // heads,
                "mlp_ratio": mlp / width,
                "patch_size": patch,
            },
            "text_cfg": {
                **text,
                "context_length": arguments["max_tokens"],
                "vocab_size": arguments["vocab_size"],
            },
        }
        if tokenizer is not None:
            model["text_cfg"]["hf_tokenizer_name"] = "."  # else OpenAI's; of a local folder any name means the folder
        whole = {"model_cfg": model, "preprocess_cfg": {"mean": mean, "std": std}}
        texts["open_clip_config.json"] = json.dumps(whole)
        file = "open_clip_model.safetensors"
    with atomic_folder(Path(output)) as folder:
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / file, {"format": "pt"})
        for name, content in texts.items():
            (folder / name).write_text(content)
