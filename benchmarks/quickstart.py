"""A first run in under 3 minutes on 2 cores: MoCo v2 on scikit-learn's scanned digits, then what it has learned.

    python benchmarks/quickstart.py [--run DIR] [--seed N]

The figures are the accuracy on held-out digits with 5 labels a class, for the trained network, the same network as it
started, and the pixels themselves.
"""

import argparse
import logging
import time
import warnings
from pathlib import Path

import lightning.pytorch as L
import yaml
from torch import Tensor

from callbacks import FeatureMap, KNNMonitor, LinearEvaluation
from datamodules import Digits
from ssl_lightning.__main__ import main
from ssl_lightning.base import ImageModule
from ssl_lightning.methods import MoCo

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


class Pixels(ImageModule):
    """Features that nothing was learned for."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def few_labels(model: ImageModule, folder: Path, pictures: bool = False) -> dict[str, float]:
    """Accuracy in percent with 5 labels a class, mean of 10 draws of the labels."""
    scores = [KNNMonitor(k=5, labels_per_class=5, draws=10), LinearEvaluation(labels_per_class=5, draws=10)]
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[*scores, *([FeatureMap()] if pictures else [])],
    )
    metrics = trainer.test(model, Digits(seed=0), verbose=False)[0]
    return {score.kind: 100 * metrics[f"test/{score.name}_top1"] for score in scores}


def free_folder() -> Path:
    """runs/quickstart, or with a number behind it if there is one already."""
    names = ["quickstart", *(f"quickstart-{n}" for n in range(2, 1000))]
    return next(folder for name in names if not (folder := Path("runs", name)).exists())


def run(folder: Path, seed: int) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    start = time.perf_counter()
    main(["fit", "-c", str(CONFIG), "--run", str(folder), "--seed_everything", str(seed), "--trainer.devices", "1"])
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    arguments = {**config["model"]["init_args"], "image_size": 32}
    L.seed_everything(seed, verbose=False)
    untrained = MoCo(**arguments)
    trained = MoCo.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    rows = {
        "trained": few_labels(trained, folder, pictures=True),
        "untrained": few_labels(untrained, folder),
        "raw pixels": few_labels(Pixels(backbone="convnet", image_size=32), folder),
    }
    print(f"\nheld-out digits, 5 labels a class   kNN     linear     (trained in {minutes} min {seconds} s)")
    for name, row in rows.items():
        print(f"  {name:<30}  {row['knn']:6.1f} %  {row['linear']:6.1f} %")
    print(f"\npictures    {folder}/pictures")
    print(f"checkpoint  {folder}/checkpoints/last.ckpt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of the run (default: the first free runs/quickstart...)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    run(args.run or free_folder(), args.seed)
