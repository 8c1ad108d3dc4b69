"""Images with captions, from tables and embedded."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from datamodules import DigitsText, ImageTextBatch, ImageTextCSV
from datamodules.byte_pairs import BytePairs, train
from datamodules.image_text import Captions
from datamodules.image_text_csv import read_table
from datamodules.views import CropFlipViews


def table(path: Path, rows, columns=("filepath", "title")):
    with path.open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        out.writerow(columns)
        out.writerows(rows)
    return str(path)


def pictures(folder: Path, n: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    for i in range(n):
        Image.fromarray(np.full((10, 8, 3), 20 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return [f"{folder.name}/{i}.png" for i in range(n)]


@pytest.fixture
def small(tmp_path):
    """Six images, of which the first has two captions; two more for validation."""
    names = pictures(tmp_path / "pictures", 8)
    rows = [(names[0], "a black square, or nothing"), *((n, f"grey {i}") for i, n in enumerate(names[:6]))]
    return (
        tmp_path,
        table(tmp_path / "train.csv", rows),
        table(tmp_path / "val.tsv", [(n, "bright") for n in names[6:]]),
    )


class Keep(LightningModule):
    """Keeps what it sees."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches, self.evaluated = [], []

    def default_views(self):
        return CropFlipViews(flip=0, padding=0)

    def training_step(self, batch, batch_idx):
        self.batches.append((self.current_epoch, batch))
        return self.weight * 0

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append((dataloader_idx, batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, tmp_path, epochs=1, **changes):
    keep = Keep()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, use_distributed_sampler=False,
        default_root_dir=tmp_path, **quiet, **changes,
    )  # fmt: skip
    trainer.fit(keep, data)
    return keep


def test_an_image_comes_with_a_caption_of_its_own_another_one_by_epoch(small):
    folder, train_csv, val = small
    data = ImageTextCSV(train_csv, val=val, image_size=8, batch_size=2, num_workers=0, max_tokens=40, vocab_size=300)
    keep = fit(data, folder, epochs=12)
    words, of_first = {}, set()
    for epoch, batch in keep.batches:
        assert isinstance(batch, ImageTextBatch)
        assert batch.tokens.shape == (2, 40)
        for view, i, ids in zip(batch.views[0], batch.index.tolist(), batch.tokens.tolist(), strict=True):
            text = data.pieces.tokenizer.decode(ids[1 : ids.index(299)]).strip()
            assert int((255 * view).round().unique()) == 20 * i
            assert text in [title.lower() for title in data.titles["train"][f"pictures/{i}.png"]]
            words.setdefault(epoch, set()).add(i)
            of_first |= {text} if i == 0 else set()
    assert of_first == {"a black square, or nothing", "grey 0"}
    assert all(seen == set(range(6)) for seen in words.values())
    loaders = {0: [], 1: []}
    for loader, batch in keep.evaluated:
        loaders[loader] += batch.image.flatten(1).amax(1).tolist()
    assert loaders[1][:2] == [120, 140]
    assert set(loaders[0]) <= {20 * i for i in range(6)}
    assert data.captions(data.val_dataloader()[1].dataset) == [["bright"], ["bright"]]


def test_captions_are_drawn_evenly_by_key_and_image():
    texts = [["a", "b", "c"], ["d"], ["e", "f"]]
    ours = BytePairs(train([t for of in texts for t in of], 258))
    captions = Captions(texts, ours, 4)
    index = torch.tensor([2, 0, 1, 0])
    once = captions.draw(index, 7, 0)
    assert torch.equal(once[1], once[3])
    assert torch.equal(once, captions.draw(index, 7, 0))
    found = torch.stack([captions.draw(torch.tensor([0]), 7, epoch)[0] for epoch in range(600)])
    _, counts = found.unique(dim=0, return_counts=True)
    assert len(counts) == 3
    assert counts.min() > 160  # of 200
    assert torch.equal(captions.draw(torch.tensor([1]), 7, 3)[0], torch.from_numpy(ours(["d"], 4))[0])


def test_the_cache_keeps_captions_with_their_images(small):
    folder, train_csv, val = small
    rows = Path(train_csv).read_text() + "pictures/broken.png,no picture\n"
    (folder / "train2.csv").write_text(rows)
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    data = ImageTextCSV(
        str(folder / "train2.csv"),
        val=val,
        image_size=8,
        batch_size=2,
        cache=True,
        skip_unreadable=True,
        vocab_size=300,
    )
    data.prepare_data()
    with pytest.warns(UserWarning, match="1 of 7 images could not be read"):
        data.setup("fit")
    images = data.train_dataloader().dataset
    assert len(images) == 6
    assert data.captions(images)[0] == ["a black square, or nothing", "grey 0"]
    assert data.captions(images)[5] == ["grey 5"]


def test_digits_have_five_captions_with_their_number():
    data = DigitsText(image_size=8)
    data.setup("fit")
    images = data.val_dataloader()[1].dataset
    captions = data.captions(images)
    assert data.class_names[3] == "three"
    assert {len(of_one) for of_one in captions} == {5}
    for label, of_one in zip(images.labels.tolist(), captions, strict=True):
        assert all(data.class_names[label] in text for text in of_one)
    assert (data.vocab_size, data.end_token) == (512, 511) == (data.pieces.size, data.pieces.end)
    tokens = data.pieces([text for of_one in captions for text in of_one], data.max_tokens)
    assert (tokens[:, -1] == 0).all()  # none is cut


def test_a_given_tokenizer_is_used_and_another_one_refused(small):
    folder, train_csv, _ = small
    (folder / "tokenizer.json").write_text(train(["other words"], 280))
    data = ImageTextCSV(train_csv, tokenizer=str(folder), image_size=8, batch_size=2)
    assert (data.vocab_size, data.end_token) == (280, 279)
    data.use_tokenizer(train(["other words"], 280), "the checkpoint")
    with pytest.raises(ValueError, match="is not the checkpoint: drop it"):
        data.use_tokenizer(train(["words"], 290), "the checkpoint")
    with pytest.raises(ValueError, match=r"vocab_size is 300, but .* has 280 pieces: drop it"):
        ImageTextCSV(train_csv, tokenizer=str(folder), vocab_size=300, image_size=8)


def test_a_table_of_a_spreadsheet_begins_with_a_mark(small):
    folder, train_csv, _ = small
    (folder / "marked.csv").write_bytes(b"\xef\xbb\xbf" + Path(train_csv).read_bytes())
    assert read_table(folder / "marked.csv", folder) == read_table(train_csv, folder)


def test_wrong_tables(small, monkeypatch):
    folder, train_csv, _ = small
    name = "pictures/0.png"
    wrong = [
        ([(name, "x")], ("file", "title"), ValueError, "no column filepath: .* and names file, title"),
        (
            [(name, "x"), (name, " ")],
            ("filepath", "title"),
            ValueError,
            "line 3: the caption of 'pictures/0.png' is empty",
        ),
        (
            [("pictures/9.png", "x")],
            ("filepath", "title"),
            FileNotFoundError,
            "line 2: there is no image .*9.png; files",
        ),
        ([], ("filepath", "title"), ValueError, "lists no image"),
        ([], (), ValueError, "no column filepath and no title: .* names none"),
    ]
    for i, (rows, columns, kind, words) in enumerate(wrong):
        path = table(folder / f"wrong{i}.csv", rows, columns)
        with pytest.raises(kind, match=words):
            ImageTextCSV(path)
    (folder / "more.tsv").write_text(f"filepath\ttitle\n{name}\tx\ty\n")
    with pytest.raises(ValueError, match=r"line 2: 3 fields, .* names 2: put a text with a tab between double"):
        ImageTextCSV(str(folder / "more.tsv"))
    with pytest.raises(FileNotFoundError, match="there is no table"):
        ImageTextCSV(str(folder / "none.csv"))
    (folder / "latin.csv").write_bytes("filepath,title\npictures/0.png,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        ImageTextCSV(str(folder / "latin.csv"))
    with pytest.raises(ValueError, match="give val, a table"):
        ImageTextCSV(train_csv, val_size=2)
    with pytest.raises(ValueError, match="max_tokens must be at least 3, got 2"):
        ImageTextCSV(train_csv, max_tokens=2)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ssl-lightning\[text\]'"):
        DigitsText()
