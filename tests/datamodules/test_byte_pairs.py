import json

import pytest
import tokenizers

from datamodules.byte_pairs import END, LEAST, START, BytePairs, train

CAPTIONS = ["A dog runs.", "Two dogs run through the  grass", "a cat — naïve, 42 years", "the dog and the cat"] * 3


def test_it_loses_nothing_but_case_and_spaces():
    ours = BytePairs(train(CAPTIONS, 300))
    for text in [*CAPTIONS, "unseen \N{SNOWMAN} 1999z", "\tx\n y "]:
        ids = ours([text], 100)[0]
        ids = ids[1 : list(ids).index(ours.end)].tolist()
        assert ours.tokenizer.decode(ids).strip() == " ".join(text.lower().split())


def test_start_end_and_zeros_around_what_fits():
    ours = BytePairs(train(CAPTIONS, 300))
    short, long = ours(["dog", "dog " * 50], 8)
    assert (ours.start, ours.end, ours.size) == (298, 299, 300)
    assert short[0] == long[0] == 298
    assert list(short[-5:]) == [0] * 5
    assert list(short).count(299) == 1
    assert list(long).index(299) == 7
    assert list(ours([""], 4)[0]) == [298, 299, 0, 0]


def test_a_word_is_the_same_wherever_it_stands():
    ours = BytePairs(train(CAPTIONS, 300))
    assert ours(["dog dog"], 10)[0][1:3].tolist() == [ours(["dog"], 10)[0][1]] * 2


def test_the_special_tokens_are_no_text_of_captions():
    ours = BytePairs(train(["<|unused0|>"], 300))
    assert not set(ours(["<|unused0|>"], 60)[0].tolist()) & set(range(290, 298))


def test_the_same_captions_give_the_same_tokenizer():
    one, two = (json.loads(train(captions, 300)) for captions in (CAPTIONS, CAPTIONS[::-1]))
    assert one == two
    assert BytePairs(train(CAPTIONS, 300)).meaning != BytePairs(train(CAPTIONS[:2], 300)).meaning


def test_errors_name_the_way_out():
    with pytest.raises(ValueError, match=f"vocab_size must be at least {LEAST}"):
        train(CAPTIONS, 257)
    with pytest.raises(ValueError, match=r"mine is no tokenizer of the tokenizers library"):
        BytePairs("{}", "mine")
    with pytest.raises(ValueError, match="of the kind WordPiece, which is not BPE"):
        BytePairs(tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).to_str())
    plain = tokenizers.Tokenizer(tokenizers.models.BPE())
    with pytest.raises(ValueError, match=r"has no <\|startoftext\|>, <\|endoftext\|>"):
        BytePairs(plain.to_str())
    plain.add_special_tokens([START, END])
    assert BytePairs(plain.to_str()).end == 1
