"""Images with tags: made of labels, from tables, and resampled by how rare they are."""

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import DigitsTags, ImageTagsCSV, TaggedBatch
from datamodules.image_tags_csv import split_words, vocabulary
from datamodules.loader import ResampledBatches
from datamodules.noisy_tags import NoisyTags
from datamodules.sets import Part, places, whole
from datamodules.tags import filled, rarity
from tests.datamodules.recorder import Numbers, Recorder, quiet_trainer


def order(weights, batch_size, seed=0, epoch=0, rank=0, world=1):
    batches = ResampledBatches(np.asarray(weights), batch_size, seed, rank, world)
    batches.set_epoch(epoch)
    return list(batches)


def rows(weights, batch_size, epoch):
    return [row for batch in order(weights, batch_size, epoch=epoch) for row in batch]


# ---- resampling


def test_processes_together_see_what_one_process_sees():
    weights = np.linspace(1, 3, 35)
    one = order(weights, 8, epoch=3)
    two = [order(weights, 4, epoch=3, rank=rank, world=2) for rank in range(2)]
    assert one == [a + b for a, b in zip(*two, strict=True)]
    assert len({json.dumps(order(weights, 8, seed=s, epoch=e)) for s in range(3) for e in range(3)}) == 9


def test_an_image_comes_up_in_proportion_to_its_weight_and_as_evenly_as_whole_numbers_allow():
    weights = np.random.default_rng(0).uniform(0.2, 4.0, 50)
    share = 50 * weights / weights.sum()
    epochs = 400
    counts = np.stack([np.bincount(rows(weights, 50, e), minlength=50) for e in range(epochs)])
    assert (counts >= np.floor(share)).all()
    assert (counts <= np.ceil(share)).all()
    np.testing.assert_allclose(counts.mean(0), share, atol=4 * 0.5 / epochs**0.5)


def test_equal_weights_show_every_image_once():
    for epoch in range(20):
        assert sorted(rows(np.full(32, 0.1), 8, epoch)) == list(range(32))


def test_which_images_come_together_changes():
    """Drawn by places in a row, every second of equal images would come, or every other second."""
    pairs = set()
    for epoch in range(60):
        drawn = set(rows([1.0] * 8 + [9.0] * 8, 16, epoch))
        pairs |= {(a, b) for a in range(8) for b in range(8) if a < b and {a, b} <= drawn}
    assert len(pairs) > 20  # of 28


def test_the_weight_is_that_of_the_rarest_tag():
    tags = filled([[0], [0, 1], [1, 2], [0, 2], [0], [0]])
    assert tags.tolist() == [[0, -1], [0, 1], [1, 2], [0, 2], [0, -1], [0, -1]]
    counts = Counter(tag for row in tags.tolist() for tag in row if tag >= 0)
    expected = [max(counts[tag] ** -0.5 for tag in row if tag >= 0) for row in tags.tolist()]
    np.testing.assert_allclose(rarity(tags, 4), expected)


# ---- tags made of labels


def tags_of(data):
    data.setup("fit")
    images = whole(data.train_dataloader().dataset)
    return images.labels, data.tags(images)


def test_noisy_tags_are_as_frequent_as_they_should_be():
    data = DigitsTags(image_size=8, fine=0.5, coarse=0.7, wrong=0.4)
    labels, tags = tags_of(data)
    assert data.tag_names == [*"0123456789", "loop", "curve", "line"]
    group = {int(digit): tag for tag, digits in data.groups.items() for digit in digits}
    true = [{str(label), group[label]} for label in labels.tolist()]
    named = [[data.tag_names[tag] for tag in of_one] for of_one in tags]
    assert all(len(set(of_one)) == len(of_one) for of_one in named)
    n, wrong = len(labels), [set(of_one) - mine for of_one, mine in zip(named, true, strict=True)]
    fine = sum(str(label) in of_one for label, of_one in zip(labels.tolist(), named, strict=True)) / n
    coarse = sum(group[label] in of_one for label, of_one in zip(labels.tolist(), named, strict=True)) / n
    assert (fine, coarse) == (pytest.approx(0.5, abs=0.05), pytest.approx(0.7, abs=0.05))  # 4 deviations of 0.013
    assert sum(map(bool, wrong)) / n == pytest.approx(1 - 0.6**2, abs=0.05)
    assert max(map(len, wrong)) == 2
    evenly = Counter(tag for of_one in wrong for tag in of_one)
    assert set(evenly) == set(data.tag_names)


def test_the_defaults_are_as_noisy_as_the_docstring_says():
    data = DigitsTags(image_size=8)
    labels, tags = tags_of(data)
    group = [next(10 + g for g, d in enumerate(data.groups.values()) if str(label) in d) for label in range(10)]
    true = [{label, group[label]} for label in labels.tolist()]
    wrong = [len(set(of_one) - mine) for of_one, mine in zip(tags, true, strict=True)]
    number = [len(of_one) for of_one in tags]
    assert np.mean(number) == pytest.approx(1.8, abs=0.1)
    assert np.mean(wrong) == pytest.approx(0.8, abs=0.1)
    assert np.mean([n == 0 for n in number]) == pytest.approx(0.09, abs=0.03)
    assert np.mean([n > 0 and n == w for n, w in zip(number, wrong, strict=True)]) == pytest.approx(0.16, abs=0.04)


def test_noisy_tags_depend_on_seed_and_image_alone():
    first, again, other = (tags_of(DigitsTags(image_size=8, seed=seed))[1] for seed in (1, 1, 2))
    assert first == again != other


def test_an_image_without_a_label_has_no_tag():
    data = TaggedNumbers(n=40, batch_size=8, fine=1.0, wrong=1.0)
    data.setup("fit")
    images = whole(data.train_dataloader().dataset)
    images.labels[3] = -1
    assert [i for i, tags in enumerate(data.tags(images)) if not tags] == [3]


@pytest.mark.parametrize("name", ["fine", "coarse", "wrong"])
def test_a_probability_out_of_its_range_is_an_error(name):
    with pytest.raises(ValueError, match=rf"the probability {name} must lie in \[0, 1\], got 1.5"):
        DigitsTags(**{name: 1.5})


@pytest.mark.parametrize(
    ("given", "named"), [({"two": ["even", "ode"]}, "odd"), ({"a": ["even", "odd"], "b": ["even"]}, "even")]
)
def test_a_class_without_a_group_or_in_two_is_an_error(given, named):
    class Wrong(NoisyTags, Numbers):
        groups = given

    with pytest.raises(ValueError, match=f"each class must be in one of the groups, and no other name: see '{named}'"):
        Wrong()


class TaggedNumbers(NoisyTags, Numbers):
    groups = {"two": ["even"], "one": ["odd"]}  # noqa: RUF012


class Keep(Recorder):
    """Keeps all batches."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return super().training_step(batch)


def test_training_sees_tags_and_evaluation_sees_every_image_without(caplog):
    data, model = TaggedNumbers(n=40, batch_size=8, coarse=0.0, wrong=0.0), Keep()
    with caplog.at_level(logging.INFO):
        quiet_trainer(max_epochs=3, num_sanity_val_steps=0).fit(model, datamodule=data)
    tags = data.tags(whole(data.train_dataloader().dataset))
    without = [i for i, of_one in enumerate(tags) if not of_one]
    assert 10 < len(without) < 30
    said = f"4 tags, 1.0 on an image in the mean; {len(without)} of 40 training images have none and are left out"
    assert said in caplog.text
    assert {type(batch) for batch in model.batches} == {TaggedBatch}
    for batch in model.batches:
        assert batch.tags.tolist() == [tags[i] for i in batch.index.tolist()]
        assert batch.label.tolist() == [i % 2 for i in batch.index.tolist()]
        assert batch.views[0].shape == (8, 1, 8, 8)
    assert sorted(i for of, rows in model.evaluated if of == 0 for i in rows)[::3] == list(range(40))


def test_held_out_images_are_not_trained_on():
    data = TaggedNumbers(n=40, batch_size=8, val_size=10, seed=3, wrong=0.0)
    data.setup("fit")
    trained = places(data.train_dataloader().dataset)
    bank, held = (places(loader.dataset) for loader in data.val_dataloader())
    assert len(held) == 10
    assert len(bank) == 30
    assert set(trained) <= set(bank)
    tags = data.tags(whole(data.train_dataloader().dataset))
    assert set(bank) - set(trained) == {i for i in bank if not tags[i]}


def test_no_tag_at_all_is_an_error():
    data = TaggedNumbers(n=40, batch_size=8, fine=0.0, coarse=0.0, wrong=0.0)
    with pytest.raises(ValueError, match="none of the 40 training images has one of the 4 tags"):
        data.setup("fit")


def test_places_of_a_part_of_a_part():
    data = Numbers(n=20, batch_size=4)
    data.setup("fit")
    images = data.train_dataloader().dataset
    part = Part(Part(images, np.arange(5, 15)), np.array([7, 2]))
    assert places(part).tolist() == [12, 7] == part[[0, 1]].index.tolist()


# ---- tags in a table


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join([*lines, ""]))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    for i in range(8):
        Image.fromarray(np.full((8, 8, 3), 20 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_words_of_tags_and_of_captions():
    assert split_words("#New  sea-side;DOG,,cat c3po") == ["new", "sea-side", "dog", "cat", "c3po"]
    assert split_words('Two dogs, (one "black") run.') == ["two", "dogs", "one", "black", "run"]
    assert split_words(" # , ") == []


def test_the_vocabulary_counts_images():
    words = [["a", "b"], ["a", "c"], ["a", "b"], ["a", "d"]]
    assert vocabulary(words, 1, 1.0) == ["a", "b", "c", "d"]
    assert vocabulary(words, 2, 1.0) == ["a", "b"]
    assert vocabulary(words, 1, 0.5) == ["b", "c", "d"]


@pytest.mark.parametrize("cache", [False, True])
def test_a_table_with_labels_trains_and_is_evaluated(folder, cache):
    lines = ["0.png,Red big,x", "1.png,red,", "2.png,blue,y", "0.png,blue,x", "3.png,rare,", "4.png,big;red,x"]
    train = write(folder / "train.csv", "filepath,tags,label", *lines)
    val = write(folder / "val.tsv", "filepath\tlabel", "5.png\ty", "6.png\tx")
    data = ImageTagsCSV(
        train, val=val, min_count=2, max_share=0.6, image_size=8, batch_size=2, num_workers=0, cache=cache
    )
    assert data.tag_names == ["red", "big", "blue"]
    assert (data.num_tags, data.num_classes, data.class_names) == (3, 2, ["x", "y"])
    model = Keep()
    quiet_trainer(max_epochs=4, num_sanity_val_steps=0).fit(model, datamodule=data)
    named = {
        int(i): {data.tag_names[tag] for tag in row if tag >= 0}
        for batch in model.batches
        for i, row in zip(batch.index.tolist(), batch.tags.tolist(), strict=True)
    }
    assert named == {0: {"red", "big", "blue"}, 1: {"red"}, 2: {"blue"}, 4: {"big", "red"}}
    bank, queries = (loader.dataset for loader in data.val_dataloader())
    assert [bank.names, bank.labels.tolist()] == [["0.png", "2.png", "4.png"], [0, 1, 0]]
    assert [queries.names, queries.labels.tolist()] == [["5.png", "6.png"], [1, 0]]
    assert data.test_dataloader()[1].dataset is queries


def test_captions_are_tags_and_without_labels_evaluation_is_off(folder):
    titles = ["a dog runs", "A dog, sleeping.", "a cat", "a cat and a dog"]
    train = write(folder / "c.csv", "filepath,title", *(f'{i}.png,"{title}"' for i, title in enumerate(titles)))
    data = ImageTagsCSV(train, column="title", min_count=2, max_share=0.8, image_size=8, batch_size=2, num_workers=0)
    assert data.tag_names == ["dog", "cat"]
    data.setup("fit")
    assert data.val_dataloader() == []
    assert data.num_classes is None


@pytest.mark.parametrize(
    ("lines", "changes", "words"),
    [
        (["filepath,words", "0.png,a"], {}, "no column tags: its first line must name the columns filepath and tags"),
        (["filepath,tags", "9.png,a"], {}, "line 2: there is no image"),
        (["filepath,tags", "0.png,a,b"], {}, "line 2: 3 fields, .* put a text with a comma between double quotes"),
        (["filepath,tags", "0.png,a", "1.png,a b"], {}, "1 tags stand on at least 2 and at most 1 of the 2 images"),
        (["filepath,tags", "0.png,a"], {"min_count": 0}, "min_count must be at least 1, got 0"),
        (["filepath,tags", "0.png,a"], {"max_share": 0.0}, r"max_share must lie in \(0, 1\], got 0.0"),
        (
            ["filepath,tags,label", "0.png,a b,x", "1.png,a b,x", "0.png,a,y"],
            {},
            "line 4: the label of '0.png' is 'y', and 'x' in an earlier line",
        ),
        (
            ["filepath,tags,label", "0.png,a b,x", "1.png,a b,y"],
            {"val": ["filepath,label", "2.png,z"]},
            "the label 'z', and no image of .*train.csv has it: label some",
        ),
        (
            ["filepath,tags,label", "0.png,a b,x", "1.png,a b,y"],
            {"val": ["filepath,label", "2.png,"]},
            "val.csv, line 2: the label of '2.png' is empty",
        ),
        (
            ["filepath,tags,label", "0.png,a b,x", "1.png,a b,y"],
            {"val": ["filepath,label", "1.png,x"]},
            "val.csv lists '1.png', which .*train.csv lists too",
        ),
    ],
)
def test_wrong_tables(folder, lines, changes, words):
    train = write(folder / "train.csv", *lines)
    changes = {"min_count": 2, "max_share": 1.0, **changes}
    if "val" in changes:
        changes["val"] = write(folder / "val.csv", *changes["val"])
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        ImageTagsCSV(train, image_size=8, **changes)


def test_tags_reach_the_device_with_the_rest():
    data = TaggedNumbers(n=8, batch_size=4)
    batch = TaggedBatch(*(torch.zeros(4, dtype=torch.int64),) * 4)
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert [part.device.type for part in moved[:4]] == ["meta", "meta", "cpu", "meta"]
