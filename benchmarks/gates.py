"""The runs of all gates as one comparison: every method of every family, under the protocol that it was measured by.

    python benchmarks/gates.py     print the table of the README from results/learn*.json

A gate whose results have the form of benchmarks/learn.py takes one line in GATES; another form takes a function, too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import learn
import learn_clip
import learn_detection
import learn_masked
import learn_reversal
import learn_semi
import learn_text
import learn_tracking
import learn_zoo
from harness import Record, read

from ssl_lightning.compare.runs import Run, Score, family
from ssl_lightning.compare.tables import markdown
from ssl_lightning.methods import (
    BERT,
    CLIP,
    Classifier,
    DetectionTransfer,
    FineTune,
    FixMatch,
    LinearProbe,
    Transformer,
)


def run_of(
    record: Record, name: str, method: type | None, data: str, scores: list[Score], checkpoint: str | None = None
) -> Run:
    """A run to compare, with the network, where it began and the steps, which differ between the gates."""
    arguments = record.get("arguments") or record.get("recipe", {}).get("model", {})
    network = arguments.get("backbone") or arguments.get("size")
    shape = arguments.get("backbone_args") or {}
    for key, words in {"width": "width", "embed_dim": "width", "depth": "depth"}.items():
        network = f"{network}, {words} {shape[key]}" if key in shape else network
    made = {"model.backbone": network, "model.checkpoint": checkpoint, "steps": record.get("steps")}
    return Run(
        name=name,
        model=record.get("method") or (method.__name__ if method else ""),
        data=data,
        scores=tuple(scores),
        seed=record["seed"],
        family=family(method.__module__) if method else "",
        arguments={key: value for key, value in made.items() if value is not None},
    )


def learned(methods: Mapping[str, type], data: str, record: Record, name: str) -> list[Run]:
    """Of the form of learn.py: features of the trained and of the untrained network, accuracies in percent."""
    ids = {protocol.split("-")[0]: protocol for protocol in record["protocols"]}
    scores = []
    for state, of in (("trained", ""), ("untrained", ", untrained")):
        found = record.get(state, {})
        for key in (key for key in ids if key in found):
            layer = f"best of {len(found['linear by layer'])} on a split" if "layer" in found else ""
            scores.append(Score(f"{key}_top1{of}", found[key] / 100, ids[key], layer))
    return [run_of(record, name, methods[record.get("method", "")], data, scores)]


def clip(record: Record, name: str) -> list[Run]:
    data = {"flickr8k": "Flickr8k, captioned", "digits": "Digits, captioned"}[record["data"]]
    scores = [Score(key, value, record["protocol"]) for key, value in record["scores"].items()]
    return [run_of(record, name, CLIP, data, scores)]


def tracking(record: Record, name: str) -> list[Run]:
    """On the held-out digits."""
    ids, scores = record["protocols"]["digits"], []
    for key in ids:
        scores.append(Score(key, record["scores"]["digits"][key], ids[key]))
        if "untrained" in record:
            scores.append(Score(f"{key}, untrained", record["untrained"]["digits"][key], ids[key]))
    method = learn_tracking.METHODS.get(record["method"])
    kept = [s for s in scores if s.name.split(",")[0] in ("ope_success_auc", "ope_precision_20", "pairs_k10")]
    return [run_of(record, name, method, "MovingDigits", kept)]


def reversal(record: Record, name: str) -> list[Run]:
    scores = [Score(key, record[key], protocol) for key, protocol in record["protocols"].items()]
    return [run_of(record, name, Transformer, "Reversal", scores)]


def semi(record: Record, name: str) -> list[Run]:
    runs = []
    for method in (Classifier, FixMatch):
        found = record[method.__name__]
        scores = [Score("top1", found["accuracy"] / 100, found["protocol"])]
        data = f"{CIFAR}, {10 * record['arguments']['labels_per_class']} with labels"
        runs.append(run_of({**record, "steps": found["steps"]}, name, method, data, scores))
    return runs


def detection(record: Record, name: str) -> list[Run]:
    runs = []
    for start, checkpoint in {"pretrained": "SimCLR", "scratch": "none"}.items():
        scores = [Score(key, record[start][key] / 100, words) for key, words in record["protocols"].items()]
        runs.append(run_of(record, name, DetectionTransfer, "DetectionDigits", scores, checkpoint))
    return runs


def zoo(record: Record, name: str) -> list[Run]:
    """LeNet-5, and the transfer with few labels."""
    found, ids = record["found"], record["found"].get("protocols", {})
    if record["part"] == "lenet":
        scores = [Score("top1", found["accuracy"], ids["top1"])]
        return [run_of({**record, "method": f"Classifier, {record['name']}"}, name, Classifier, "Digits", scores)]
    runs, methods = [], {cls.__name__: cls for cls in (LinearProbe, FineTune)}
    for words, protocol in ids.items():
        method, percent, _, start = words.split()
        data = f"{CIFAR}, {float(percent) * learn.IMAGES / 100:,.0f} with labels"
        scores = [Score("top1", found[words] / 100, protocol)]
        checkpoint = "none" if start == "untrained" else start
        runs.append(run_of(record, name, methods[method], data, scores, checkpoint))
    return runs


CIFAR = f"CIFAR-10, {learn.IMAGES:,} of its training pictures"
IMAGES = {name: recipe.method for name, recipe in {**learn.RECIPES, **learn_masked.RECIPES}.items()}
GATES: dict[Path, Callable[[Record, str], list[Run]]] = {
    learn.RESULTS: partial(learned, IMAGES, CIFAR),
    learn_masked.RESULTS: partial(learned, IMAGES, CIFAR),
    learn_semi.RESULTS: semi,
    learn_zoo.RESULTS: zoo,
    learn_detection.RESULTS: detection,
    learn_text.RESULTS: partial(learned, {"": BERT}, "Movie reviews, polarity of labelled sentences"),
    learn_clip.RESULTS: clip,
    learn_tracking.RESULTS: tracking,
    learn_reversal.RESULTS: reversal,
}


def table() -> str:
    """Of the gates that have been run."""
    runs = [run for path, runs_of in GATES.items() for record in read(path) for run in runs_of(record, path.name)]
    order = list(IMAGES)  # by family
    return markdown(sorted(runs, key=lambda run: order.index(run.model) if run.model in order else len(order)))


if __name__ == "__main__":
    print(table())
