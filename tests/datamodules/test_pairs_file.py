"""Pairs of sequences: reversed words, files of one's own, and batches that are the same on any number of processes."""

import re

import pytest
import torch

from datamodules import PairsFile, Reversal
from datamodules.batch import EOS, PAD, UNKNOWN
from datamodules.loader import EpochBatches
from datamodules.pairs_file import NO_WORDS, padded, read_pairs, tokens_of
from datamodules.python_docs import documents


@pytest.fixture(scope="module")
def reversal():
    data = Reversal(batch_size=8)
    data.setup("validate")
    return data


def words(data, row):
    return [[*NO_WORDS, *data.words][token] for token in row if token not in (PAD, EOS)]


def test_targets_are_the_sources_reversed(reversal):
    for batch in [next(iter(reversal.train_dataloader())), next(iter(reversal.val_dataloader()))]:
        assert batch.source.dtype == batch.target.dtype == torch.int64
        assert batch.label.tolist() == [-1] * 8
        for source, target in zip(batch.source.tolist(), batch.target.tolist(), strict=True):
            assert words(reversal, source) == words(reversal, target)[::-1]
            assert 4 <= len(words(reversal, source)) <= 10
            for row in (source, target):
                assert row[len(words(reversal, row)) :] == [EOS] + [PAD] * (len(row) - len(words(reversal, row)) - 1)
        assert (batch.source != PAD).sum(1).max() == batch.source.shape[1]


def test_sequences_stand_in_the_text_and_none_is_asked_that_was_learned(reversal):
    text = "\n".join(" ".join(re.findall(r"\w+", s.lower())) for topic in documents() for s in topic)
    parts = {}
    for name, pairs in {"train": reversal.train, "held_out": reversal.held_out}.items():
        rows = pairs[list(range(len(pairs)))].source.tolist()
        parts[name] = [tuple(words(reversal, row)) for row in rows]
        known = [" ".join(part) for part in parts[name] if "<unk>" not in part]
        assert len(known) > len(rows) / 3
        assert all(part in text for part in known[::50])
    assert len(parts["train"]) > 30_000
    assert len(reversal.held_out) > 500
    assert not {p for p in parts["held_out"] if "<unk>" not in p} & set(parts["train"])


def test_the_vocabulary_is_the_most_frequent_words(reversal):
    assert reversal.words[0] == "the"
    assert len(reversal.words) == 1000
    assert reversal.vocab_size == 1004
    small = Reversal(max_words=5)
    assert small.words == reversal.words[:5]
    rows = small.train[list(range(100))].source
    assert ((rows == UNKNOWN).sum() / (rows > EOS).sum()).item() > 0.5


def test_it_is_the_same_every_time(reversal):
    again = Reversal(batch_size=8)
    assert again.words == reversal.words
    for a, b in zip(again.train[[0, 7, 9]], reversal.train[[0, 7, 9]], strict=True):
        assert torch.equal(a, b)


def test_two_processes_see_what_one_sees(reversal):
    n = len(reversal.train)
    one = next(iter(EpochBatches(n, 16, 0, 0, 1)))
    two = [next(iter(EpochBatches(n, 8, 0, rank, 2))) for rank in (0, 1)]
    whole, parts = reversal.train[one], [reversal.train[rows] for rows in two]
    width = whole.source.shape[1]
    joined = torch.cat([torch.nn.functional.pad(p.source, (0, width - p.source.shape[1])) for p in parts])
    assert torch.equal(joined, whole.source)


def test_a_run_goes_on_within_an_epoch(reversal):
    loader = reversal.train_dataloader()
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state, expected = loader.state_dict(), next(batches)
    again = reversal.train_dataloader()
    again.load_state_dict(state)
    assert torch.equal(next(iter(again)).source, expected.source)


def test_workers_give_the_same_batches():
    batches = []
    for workers in (0, 1):
        data = Reversal(batch_size=16, num_workers=workers)
        data.setup("fit")
        batches.append(next(iter(data.train_dataloader())))
        data.teardown("fit")
    assert torch.equal(batches[0].source, batches[1].source)


def test_a_file_of_pairs(tmp_path):
    (tmp_path / "a.tsv").write_text("ein Haus\ta house\nein\ta\ndas  große Haus\tthe big house\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text("ein Boot\ta boat\n")
    data = PairsFile(str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv"), batch_size=2, max_length=2)
    assert data.words == ["a", "ein", "Haus", "house"]  # by frequency, then by name
    assert data.left_out == 1
    batch = data.train[[1, 0]]
    assert batch.source.tolist() == [[5, EOS, PAD], [5, 6, EOS]]
    assert batch.target.tolist() == [[4, EOS, PAD], [4, 7, EOS]]
    assert data.held_out[[0]].source.tolist() == [[5, UNKNOWN, EOS]]
    assert len(PairsFile(str(tmp_path / "a.tsv"), batch_size=2).held_out) == 0


def test_what_is_not_held_out_is_not_evaluated(tmp_path):
    (tmp_path / "a.tsv").write_text("a\tb\n" * 3)
    data = PairsFile(str(tmp_path / "a.tsv"), batch_size=2)
    assert data.val_dataloader() == data.test_dataloader() == []
    assert next(iter(data.predict_dataloader())).index.tolist() == [0, 1]


def test_words_to_tokens_and_empty_batches():
    assert tokens_of([["b", "x"], []], ["a", "b"]) == [[5, UNKNOWN, EOS], [EOS]]
    assert padded([[1, 2], [3]]).tolist() == [[1, 2], [3, PAD]]
    assert padded([]).shape == (0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty: it takes lines 'source TAB target'"),
        (b"a\tb\na b\n", r"line 2: expected 'source TAB target' .* got 'a b'"),
        (b"a\tb\tc\n", "line 1: expected 'source TAB target'"),
        (b"a\t \n", "line 1: expected 'source TAB target' with a word on both sides"),
        (b"a\tb\n\n", "line 2"),
        (b"a\t\xff\n", "is not UTF-8: invalid start byte at byte 2; convert it"),
    ],
)
def test_wrong_files(text, message, tmp_path):
    (tmp_path / "a.tsv").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(str(tmp_path / "a.tsv"))


def test_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere\.tsv with lines"):
        PairsFile("nowhere.tsv")
    (tmp_path / "a.tsv").write_text("a b c\td e\n")
    with pytest.raises(ValueError, match=r"none of the 1 pairs of .*a.tsv has at most 2 words: raise max_length"):
        PairsFile(str(tmp_path / "a.tsv"), max_length=2)
    with pytest.raises(ValueError, match="max_words must be at least 1, got 0"):
        PairsFile(str(tmp_path / "a.tsv"), max_words=0)
    with pytest.raises(ValueError, match="1 <= min_length <= max_length must hold, got 5 and 4"):
        Reversal(min_length=5, max_length=4)
    with pytest.raises(ValueError, match="too few sentences have 5000 words: lower min_length"):
        Reversal(min_length=5000, max_length=5000)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Reversal(batch_size=0)
