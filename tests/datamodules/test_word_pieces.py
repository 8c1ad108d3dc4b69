import json
import sys

import pytest
import tokenizers
from transformers import BertTokenizerFast

from datamodules import PythonDocs
from datamodules.python_docs import documents
from datamodules.tokenizer import read
from datamodules.word_pieces import SPECIAL, WordPiece, train

SENTENCES = ["The cat sat on the mat.", "Cats sit; a cat sits on mats!", "Él se sentó."]


def trained(vocab_size=80, **changes):
    return train(lambda: SENTENCES, vocab_size, **changes)


def test_it_cuts_as_the_transformers_library_with_the_same_vocabulary(tmp_path):
    ours = WordPiece(trained())
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(ours.tokenizer.get_vocab(), key=ours.tokenizer.token_to_id)))
    theirs = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    texts = [*SENTENCES, "THE CÁTS, unseen \N{SNOWMAN} words 猫 sat", ""]
    assert ours.encode(texts) == [theirs(text, add_special_tokens=False).input_ids for text in texts]
    pair = ours.tokenizer.encode("a cat", "the mat")
    expected = theirs("a cat", "the mat")
    assert (pair.ids, pair.type_ids) == (expected.input_ids, expected.token_type_ids)


def test_special_tokens_come_first_and_the_vocabulary_has_the_size_asked_for():
    ours = WordPiece(trained(80))
    vocabulary = ours.tokenizer.get_vocab()
    assert [vocabulary[token] for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert (ours.pad, ours.cls, ours.sep, ours.mask) == (0, 2, 3, 4)
    assert sorted(vocabulary.values()) == list(range(80))
    assert "[unused0]" in vocabulary
    assert {piece for piece, number in vocabulary.items() if ours.continues[number]} == {
        piece for piece in vocabulary if piece.startswith("##")
    }
    assert not set(ours.encode(["[unused0] ##s"])[0]) & {vocabulary["[unused0]"], vocabulary["##s"]}


def test_capitals_and_accents_are_kept_if_asked():
    assert WordPiece(trained()).encode(["CAT Él"]) == WordPiece(trained()).encode(["cat el"])
    cased = WordPiece(trained(lowercase=False))
    assert cased.encode(["Cat"]) != cased.encode(["cat"])


def test_the_same_sentences_give_the_same_tokenizer():
    sentences = [sentence for document in documents() for sentence in document]
    one, two = (json.loads(train(lambda: sentences, 600)) for _ in range(2))
    assert one == two
    three = json.loads(train(lambda: sentences[::-1], 600))
    assert one["model"]["vocab"] == three["model"]["vocab"]


def test_errors_name_the_way_out(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no words"):
        train(lambda: ["", " "], 100)
    with pytest.raises(ValueError, match=r"at least [0-9]+, the single characters of the text, got 10"):
        trained(10)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer .*none.json: make one by ssl-lightning tokenizer"):
        read(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"mine is no tokenizer of the tokenizers library"):
        WordPiece("{}", "mine")
    with pytest.raises(ValueError, match="of the kind BPE"):
        WordPiece(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    with pytest.raises(ValueError, match=r"has no \[PAD\], "):
        WordPiece(tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).to_str())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ssl-lightning\[text\]'"):
        PythonDocs()
