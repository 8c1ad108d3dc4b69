"""BERT in the folders of the transformers library: config.json, model.safetensors, tokenizer.json."""

from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from callbacks.results import atomic_folder


def library() -> ModuleType:
    """The transformers library.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import transformers  # noqa: PLC0415  (an extra, and slow)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "BERT needs the packages transformers and tokenizers: pip install 'ssl-lightning[text]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def build_bert(config: dict[str, Any]) -> Any:
    """A BertForPreTraining with new weights: the network ``bert`` and its heads ``cls``.

    Raises:
        ValueError: BertConfig does not know a value, or the values contradict each other.
    """
    known = library().BertConfig()
    if unknown := [name for name in config if not hasattr(known, name)]:
        raise ValueError(f"BERT's configuration has no {unknown[0]!r}")
    return library().BertForPreTraining(library().BertConfig(**config))


def read_bert(folder: str | Path) -> Any:
    """The BertForPreTraining in a folder. Heads that it does not hold are new.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no BERT.
    """
    if not Path(folder, "config.json").is_file():
        raise FileNotFoundError(f"there is no config.json in {folder}: give a folder that transformers has saved")
    if (kind := library().AutoConfig.from_pretrained(folder).model_type) != "bert":
        raise ValueError(f"{folder} holds a model of the kind {kind}, which is not BERT")
    return library().BertForPreTraining.from_pretrained(folder).train()


def values(config: Any) -> dict[str, Any]:
    """What of a BertConfig differs from its defaults, as plain values; the size of the vocabulary in any case."""
    technical = ("architectures", "dtype", "transformers_version", "model_type", "_name_or_path", "pad_token_id")
    kept = {name: value for name, value in config.to_diff_dict().items() if name not in technical}
    return {**kept, "vocab_size": config.vocab_size}


def write_bert(config: dict[str, Any], state: dict[str, Tensor], tokenizer: str | None, output: str | Path) -> None:
    """Write a folder that ``from_pretrained`` of transformers reads.

    Args:
        config: Values of BertConfig.
        state: State dict of the BertForPreTraining.
        tokenizer: JSON of the tokenizer; None: no tokenizer is written.
        output: The folder; it is made.

    Raises:
        FileExistsError: the folder holds something.
    """
    network = build_bert(config)
    network.load_state_dict(state)
    with atomic_folder(Path(output)) as folder:
        if tokenizer is not None:
            from tokenizers import Tokenizer  # noqa: PLC0415

            special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
            fast = library().PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer.from_str(tokenizer),
                model_max_length=network.config.max_position_embeddings,
                model_input_names=["input_ids", "token_type_ids", "attention_mask"],
                **special,
            )
            network.config.pad_token_id = fast.pad_token_id
            fast.save_pretrained(folder)
        network.save_pretrained(folder)
