"""The Transformer as a method: its loss, its rate, what it says and what it logs."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn import functional as F

from callbacks.attention_maps import GivesAttention
from datamodules import PairsFile
from datamodules.batch import EOS, PAD, PairBatch
from ssl_lightning.methods import Transformer
from ssl_lightning.methods.supervised.transformer import smoothed_cross_entropy
from tests.methods.tiny import data, make, trainer


def batch(source, target):
    source, target = torch.tensor(source), torch.tensor(target)
    return PairBatch(source, target, torch.full((len(source),), -1), torch.arange(len(source)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_the_paper_s(smoothing):
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7)
    target = torch.randint(2, 7, (3, 5))
    target[0, 3:] = PAD
    target[2, 1:] = PAD
    total, count = 0.0, 0
    for row, words in zip(logits.double(), target.tolist(), strict=True):
        for scores, word in zip(row.tolist(), words, strict=True):
            if word == PAD:
                continue
            log_z = math.log(sum(math.exp(s) for s in scores))
            for v, s in enumerate(scores):
                q = (1 - smoothing) * (v == word) + smoothing / 7
                total -= q * (s - log_z)
            count += 1
    assert smoothed_cross_entropy(logits, target, smoothing).item() == pytest.approx(total / count, rel=1e-5)
    half = smoothed_cross_entropy(logits.bfloat16(), target, smoothing)
    assert half.dtype == torch.float32
    logits.requires_grad_()
    smoothed_cross_entropy(logits, target, smoothing).backward()
    assert logits.grad[target == PAD].abs().sum() == 0


def test_who_knows_nothing_loses_ln_v():
    model = make(Transformer)
    torch.nn.init.zeros_(model.net.embedding.weight)
    loss = model.training_step(batch([[5, 6, EOS]], [[6, 5, EOS]]), 0)
    assert loss.item() == pytest.approx(math.log(44), rel=1e-5)


def test_the_rate_is_equation_3(tmp_path):
    model = make(Transformer, warmup_steps=4)
    rates = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    run = trainer(tmp_path, Rates(), max_epochs=-1, max_steps=12)
    run.fit(model, data(Transformer))
    assert rates == pytest.approx([8**-0.5 * min(n**-0.5, n * 4**-1.5) for n in range(1, 13)])
    group = run.optimizers[0].param_groups[0]
    assert (type(run.optimizers[0]).__name__, *group["betas"], group["eps"]) == ("Adam", 0.9, 0.98, 1e-9)


def test_the_decoder_s_input_is_the_target_one_place_later():
    model = make(Transformer).eval()
    seen = []
    model.net.register_forward_pre_hook(lambda net, args: seen.append(args[1].tolist()))
    model.training_step(batch([[5, 6, EOS]], [[7, 8, EOS]]), 0)
    assert seen == [[[1, 7, 8]]]


def test_features_are_the_mean_of_the_encoder_s_outputs():
    model = make(Transformer).eval()
    source = torch.tensor([[5, 6, EOS, PAD, PAD], [5, 6, 7, 8, EOS]])
    alone = model.net.encode(source[:1, :3])[0].mean(1)
    torch.testing.assert_close(model(source)[:1], alone)


def learned(tmp_path):
    """A model that has learned three pairs by heart, and its data."""
    (tmp_path / "pairs.tsv").write_text("ein Haus\ta house\ndas Boot\tthe boat\nein Boot\ta boat\n")
    pairs = PairsFile(str(tmp_path / "pairs.tsv"), str(tmp_path / "pairs.tsv"), batch_size=3)
    model = make(Transformer, vocab_size=pairs.vocab_size, dim=32, warmup_steps=20, lr=3e-3, label_smoothing=0.0)
    run = trainer(tmp_path, max_steps=80)
    run.fit(model, pairs)
    return model, pairs, run


def test_it_learns_translates_and_keeps_its_words(tmp_path):
    model, pairs, run = learned(tmp_path)
    scores = run.test(model, pairs, verbose=False)[0]
    assert scores["test/exact_match"] == scores["test/token_accuracy"] == 1.0
    again = Transformer.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True).eval()
    assert again.words == pairs.words
    for beam in (1, 4):
        assert again.translate([["das", "Boot"], ["ein", "Haus"]], beam=beam) == [["the", "boat"], ["a", "house"]]
    (tmp_path / "other.tsv").write_text("x y z w v u t\tb\n")
    other = PairsFile(str(tmp_path / "other.tsv"), str(tmp_path / "other.tsv"), batch_size=1)
    with pytest.raises(ValueError, match="the model was trained with another vocabulary than that of the data"):
        trainer(tmp_path).test(again, other, verbose=False)


def test_scores_are_counted_over_tokens_and_sequences(tmp_path):
    """On pairs of different lengths, two of five of them wrong, in batches of different sizes."""
    model, *_ = learned(tmp_path)
    asked = "ein Haus\ta house\ndas Boot\tthe\nein Boot\ta boat\ndas Boot\tthe boat\nein Haus\tthe boat boat boat\n"
    (tmp_path / "asked.tsv").write_text(asked)
    questions = PairsFile(str(tmp_path / "pairs.tsv"), str(tmp_path / "asked.tsv"), batch_size=2)
    found = trainer(tmp_path, limit_val_batches=1.0).validate(model, questions, verbose=False)[0]
    model.eval()
    right = tokens = 0
    for i in range(5):
        source, target, *_ = questions.held_out[[i]]
        logits = model.net(source, F.pad(target[:, :-1], (1, 0), value=1))[0]
        right += (logits.argmax(1) == target[0]).sum().item()
        tokens += target.shape[1]
    assert tokens == 16
    assert 10 <= right < 16
    assert found["val/token_accuracy"] == pytest.approx(right / tokens, abs=1e-6)
    assert found["val/exact_match"] == pytest.approx(3 / 5)


def test_attention_is_that_of_every_layer_with_the_tokens_as_rows():
    model = make(Transformer, num_layers=2).eval()
    assert isinstance(model, GivesAttention)
    assert model.attention_layers == 2
    encoder, decoder, cross = model.attention(batch([[5, 6, EOS], [7, EOS, PAD]], [[6, EOS, PAD, PAD], [5, 6, 7, EOS]]))
    assert list(encoder.layers) == ["encoder.0.self_attention", "encoder.1.self_attention"]
    assert list(cross.layers) == ["decoder.0.cross_attention", "decoder.1.cross_attention"]
    assert decoder.queries == [["1", "6"], ["1", "5", "6", "7"]]
    assert cross.queries == [["6", "2"], ["5", "6", "7", "2"]]
    assert cross.keys == encoder.queries == [["5", "6", "2"], ["7", "2"]]
    for a, shape in ((encoder, (3, 3)), (decoder, (4, 4)), (cross, (4, 3))):
        for weights in a.layers.values():
            assert weights.shape == (2, 2, *shape)
            torch.testing.assert_close(weights.sum(3), torch.ones(2, 2, shape[0]))
    assert all((w[1, :, :, 2:] == 0).all() for a in (encoder, cross) for w in a.layers.values())
    assert all((w.triu(1) == 0).all() for w in decoder.layers.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 3}, "vocab_size must be more than 3, got 3"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, r"label_smoothing must lie in \[0, 1\), got -0.1"),
        ({"dim": 9}, "dim 9 must be a multiple of num_heads, which is 2"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"warmup_epochs": 1}, "warmup_epochs 1 and warmup_steps 4000 are both set: give one"),
    ],
)
def test_wrong_numbers(changes, message):
    with pytest.raises(ValueError, match=message):
        make(Transformer, **changes)


def test_a_model_without_words_does_not_translate():
    with pytest.raises(ValueError, match="the model knows no words: train it on data that name them"):
        make(Transformer).translate([["a"]])
