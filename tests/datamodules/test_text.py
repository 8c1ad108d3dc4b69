import pickle
from itertools import chain

import numpy as np
import pytest
import torch

from datamodules import PythonDocs, TextFile
from datamodules.corpus import in_memory, on_disk
from datamodules.python_docs import CLASSES, documents
from datamodules.word_pieces import WordPiece, train

WORDS = "one two three four five six seven eight nine ten".split()


def story(d):
    """A document of sentences that name it."""
    return [f"{WORDS[d % 10]} {WORDS[i % 10]} and {WORDS[(d * i) % 10]}." for i in range(3 + d % 5)]


def write(path, documents):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path):
    """30 documents in two files."""
    write(tmp_path / "text" / "a.txt", [story(d) for d in range(20)])
    write(tmp_path / "text" / "b" / "c.txt", [story(d) for d in range(20, 30)])
    return str(tmp_path / "text" / "**" / "*.txt")


def set_up(data, stage="fit"):
    data.prepare_data()
    data.setup(stage)
    return data


def small(files, **changes):
    return TextFile(files, **{"max_tokens": 16, "vocab_size": 90, "batch_size": 8, "held_out": 0.2, **changes})


def test_documents_on_disk_are_those_in_memory(files, tmp_path):
    word_piece = WordPiece(train(lambda: WORDS, 90))
    data = small(files)
    whole = in_memory([story(d) for d in range(30)], word_piece)
    disk = on_disk(data._paths, word_piece, tmp_path / "cache")
    assert len(disk) == 30
    assert disk.offsets.tolist() == whole.offsets.tolist()
    assert (disk.first.tolist(), disk.last.tolist()) == (whole.first.tolist(), whole.last.tolist())
    spans = [(3, 9), (0, 1), (100, 100)]
    for one in (disk, pickle.loads(pickle.dumps(disk)), disk.part(np.array([1, 4]))):
        assert [part.tolist() for part in one.read(spans)] == [part.tolist() for part in whole.read(spans)]
    assert disk.part(np.array([1, 4])).first.tolist() == whole.first[[1, 4]].tolist()


def test_text_is_tokenized_once_until_it_changes(files, tmp_path, monkeypatch):
    set_up(small(files))
    monkeypatch.setattr("datamodules.corpus._write", None)
    monkeypatch.setattr("datamodules.text.train", None)
    set_up(small(files))
    write(tmp_path / "text" / "b" / "c.txt", [story(d) for d in range(20, 31)])
    with pytest.raises(TypeError):
        set_up(small(files))


def test_blank_lines_of_any_number_part_documents_and_strange_lines_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("\n\none two\n \t\n\n\nthree four\r\nfive\n\x01\nsix")
    disk = on_disk([tmp_path / "a.txt"], WordPiece(train(lambda: WORDS, 90)), tmp_path / "cache")
    assert (disk.first.tolist(), disk.last.tolist()) == ([0, 1], [1, 4])


def sentences_of(batch):
    return {tuple(row[row > 0].tolist()) for row in batch.tokens}


def test_held_out_documents_are_no_part_of_training_whatever_the_seed(files):
    rows = []
    for seed in (0, 1):
        texts = set_up(small(files, seed=seed))._texts
        parts = [part.first.tolist() for part in (texts.train, texts.val, texts.test)]
        assert [len(part) for part in parts] == [24, 3, 3]
        assert len(set(chain.from_iterable(parts))) == 30
        rows.append(parts)
    assert rows[0] == rows[1]
    texts = set_up(small(files, held_out=0.05))._texts
    assert (len(texts.train), texts.val, texts.test) == (30, None, None)


def test_loaders_are_those_that_there_are_data_for(files, tmp_path):
    labelled = tmp_path / "labelled.tsv"
    labelled.write_text("".join(f"{'even' if d % 2 == 0 else 'odd'}\t{s}\n" for d in range(10) for s in story(d)))
    data = set_up(small(files, labelled=str(labelled)))
    assert (data.class_names, data.num_classes) == (["even", "odd"], 2)
    bank, queries, pairs = data.val_dataloader()
    assert len(bank.dataset) + len(queries.dataset) == 50
    assert [next(iter(loader)).random_next is None for loader in (bank, queries, pairs)] == [True, True, False]
    counts = torch.cat([batch.label for batch in queries]).bincount().tolist()
    assert sum(counts) == 10
    assert abs(counts[0] - counts[1]) <= 1
    batch = next(iter(queries))
    (ids,) = data.pieces.encode([data.names[int(batch.index[1])]])
    assert batch.tokens[1, : len(ids) + 2].tolist() == [2, *ids, 3]
    assert [len(loader.dataset) for loader in data.test_dataloader()[:2]] == [len(bank.dataset), len(queries.dataset)]
    assert len(data.predict_dataloader().dataset) == len(queries.dataset)

    asked = tmp_path / "queries.tsv"
    asked.write_text("odd\tone two\n")
    data = set_up(small(files, labelled=str(labelled), queries=str(asked), held_out=0))
    bank, queries = data.val_dataloader()
    assert (len(bank.dataset), len(queries.dataset)) == (50, 1)
    assert next(iter(queries)).label.tolist() == [1]
    data = set_up(small(files))
    assert len(data.val_dataloader()) == 1
    with pytest.raises(ValueError, match="no labelled sentences"):
        data.predict_dataloader()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_resumes_after_the_batches_handed_out(files, workers):
    data = set_up(small(files, num_workers=workers))
    loader = data.train_dataloader()
    loader.sampler.set_epoch(2)
    whole = [batch.tokens for batch in loader]
    assert len(whole) == len(loader) > 3
    other = set_up(small(files, num_workers=workers)).train_dataloader()
    other.load_state_dict({**loader.state_dict(), "batches": 2})
    rest = [batch.tokens for batch in other]
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[2:], strict=True))
    loader.close()
    other.close()


def test_draws_stay_on_the_cpu(files):
    data = set_up(small(files))
    batch = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    kinds = {name: part.device.type for name, part in moved._asdict().items()}
    assert {name for name, kind in kinds.items() if kind == "cpu"} == {"word", "index"}


def test_a_checkpoints_tokenizer_takes_the_place_of_training_one(files, tmp_path):
    other = train(lambda: WORDS, 70)
    data = small(files, vocab_size=None)
    data.use_tokenizer(other, "x.ckpt")
    assert data.vocab_size == 70
    assert set_up(data).pieces.json == other
    (tmp_path / "t.json").write_text(other)
    assert small(files, vocab_size=None, tokenizer=str(tmp_path / "t.json")).vocab_size == 70
    given = small(files, vocab_size=None, tokenizer=str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match=r"the tokenizer .*t.json is not that of x.ckpt: drop it"):
        given.use_tokenizer(train(lambda: WORDS, 71), "that of x.ckpt")
    with pytest.raises(ValueError, match=r"vocab_size is 90, but .*t.json has 70 pieces: drop it"):
        small(files, tokenizer=str(tmp_path / "t.json"))


def test_bad_input(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothere\*\.txt"):
        TextFile(str(tmp_path / "nothere*.txt"))
    empty = write(tmp_path / "empty.txt", [])
    with pytest.raises(ValueError, match=r"empty.txt hold\(s\) no sentence"):
        TextFile(empty)
    lone = write(tmp_path / "lone.txt", [story(1)])
    with pytest.raises(ValueError, match=r"1 training document\(s\).*parted by empty lines"):
        set_up(small(lone))
    (tmp_path / "latin.txt").write_bytes("é è\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt is not text in UTF-8"):
        TextFile(str(tmp_path / "latin.txt"))
    (tmp_path / "l.tsv").write_text("good\tone two\nthree four\n")
    with pytest.raises(ValueError, match=r"line 2 of .*l.tsv has no label: write LABEL, a tab"):
        small(files, labelled=str(tmp_path / "l.tsv"))
    (tmp_path / "m.tsv").write_text("good\tone\n")
    (tmp_path / "n.tsv").write_text("bad\tone\n")
    with pytest.raises(ValueError, match=r"n.tsv has the label 'bad', which .*m.tsv does not have"):
        small(files, labelled=str(tmp_path / "m.tsv"), queries=str(tmp_path / "n.tsv"))
    with pytest.raises(ValueError, match=r"give --data.labelled too"):
        small(files, queries=str(tmp_path / "n.tsv"))
    with pytest.raises(ValueError, match=r"max_tokens must be at least 5, got 4"):
        small(files, max_tokens=4)
    with pytest.raises(ValueError, match=r"held_out must be at least 0 and below 1, got 1"):
        small(files, held_out=1)
    (tmp_path / "blocked").write_text("")
    with pytest.raises(ValueError, match=r"blocked: .*choose another with --data.cache_dir"):
        set_up(small(files, cache_dir=str(tmp_path / "blocked")))


# ---- Python's documents


def test_documents_are_sentences_of_running_text():
    found = documents()
    assert len(found) > 60
    assert sum(map(len, found)) > 2000
    assert found == documents()
    assert ['The "pass" statement'] not in found
    whole = [sentence for document in found for sentence in document]
    assert all(sentence == sentence.strip() and "\n" not in sentence for sentence in whole)
    assert any(sentence.startswith("Assert statements are a convenient way") for sentence in whole)


def test_what_is_held_out_is_not_in_training():
    data = PythonDocs(vocab_size=400)
    trained = set(data.sentences())
    held = [sentence for part in (data._val, data._test) for document in part for sentence in document]
    assert len(data._val) == len(data._test) == 4
    assert len(held) > 50
    assert not trained & set(held)
    assert not trained & set(data._queries.sentences)
    assert not set(data._bank.sentences) & set(data._queries.sentences)
    assert set(data._bank.label) == set(data._queries.label) == set(range(len(CLASSES)))
    assert len(data._queries.label) > 200
    set_up(data)
    assert [len(loader.dataset) > 20 for loader in data.val_dataloader()] == [True] * 3
