import json
import math
import sys

import pytest
import torch
import transformers
from transformers import BertConfig, BertForPreTraining

from callbacks.attention_maps import GivesAttention
from callbacks.linear import LinearEvaluation
from datamodules.draws import uniform
from datamodules.word_pieces import train
from ssl_lightning.export import export
from ssl_lightning.methods import BERT
from ssl_lightning.methods.masked.bert import SIZES
from ssl_lightning.token_masks import TokenMasks, choose, draws
from tests.methods.tiny import data, make, trainer, training_batch

# The published counts of parameters of the encoder, without the heads.
ENCODERS = {
    "tiny": 4_385_920,
    "mini": 11_170_560,
    "small": 28_763_648,
    "medium": 41_373_184,
    "base": 109_482_240,
    "large": 335_141_888,
}


def masks_of(batch, whole_word=False):
    return choose(batch.word, uniform(batch.index, draws(batch.word.shape[1])), whole_word)


@pytest.fixture
def batch():
    return training_batch(BERT, None, "cpu")


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_the_published_ones(size):
    with torch.device("meta"):
        model = BERT(vocab_size=30522, mask_token=103, size=size)
    assert sum(p.numel() for p in model.bert.parameters()) == ENCODERS[size]


def test_the_first_loss_is_that_of_knowing_nothing(batch):
    model = make(BERT, network_args={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2})
    model.uniform = uniform
    out = model.training_step(batch, 0)
    assert out["mlm_loss"].item() == pytest.approx(math.log(400), abs=0.1)
    assert out["nsp_loss"].item() == pytest.approx(math.log(2), abs=0.1)
    assert out["loss"] == out["mlm_loss"] + out["nsp_loss"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_is_that_of_the_transformers_library(batch, attention):
    model = make(BERT)
    theirs = BertForPreTraining(BertConfig(**model.bert.config.to_diff_dict()))
    theirs.load_state_dict(model.state_dict())
    model.bert.set_attn_implementation(attention)
    model.uniform = uniform
    out = model.training_step(batch, 0)
    masks = masks_of(batch)
    picked = torch.zeros(batch.tokens.shape).scatter(1, masks.position, masks.used).bool()
    expected = theirs(
        input_ids=masks.replaced(batch.tokens, 4, 400),
        attention_mask=batch.mask.long(),
        token_type_ids=batch.segment,
        labels=torch.where(picked, batch.tokens, -100),
        next_sentence_label=batch.random_next,
    )
    torch.testing.assert_close(out["loss"], expected.loss)
    out["loss"].backward()
    expected.loss.backward()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, msg=name)


def test_only_masked_places_teach_words(batch, monkeypatch):
    model, masks = make(BERT), masks_of(batch)
    found, outputs = [], model.outputs
    model.outputs = lambda *inputs: found.append(outputs(*inputs)) or found[-1]
    nats, _ = model.masked(batch, masks)
    hidden = found[0].last_hidden_state
    hidden.retain_grad()
    nats.sum().backward()
    picked = torch.zeros(batch.tokens.shape).scatter(1, masks.position, masks.used).bool()
    assert torch.equal(hidden.grad.abs().sum(2) > 0, picked)

    same_input = masks.replaced(batch.tokens, 4, 400)
    monkeypatch.setattr(TokenMasks, "replaced", lambda *_: same_input)
    other = torch.where(picked, batch.tokens, batch.tokens.roll(1, 0))  # targets that do not count
    assert torch.equal(model.masked(batch._replace(tokens=other), masks)[0], nats)
    other = torch.where(picked, batch.tokens.roll(1, 0), batch.tokens)
    assert not torch.equal(model.masked(batch._replace(tokens=other), masks)[0], nats)


def test_padding_changes_nothing(batch):
    model = make(BERT).eval()
    short = batch._replace(
        tokens=batch.tokens.clone(), mask=batch.mask & (torch.arange(32) < 20), segment=torch.zeros_like(batch.segment)
    )
    alone = model(batch.tokens[:, :20])
    torch.testing.assert_close(model(short), alone)
    model.features = "cls"
    torch.testing.assert_close(model(short), model(batch.tokens[:, :20]))
    assert not torch.allclose(model(short), alone)


def test_any_layer_gives_features(batch, tmp_path):
    small = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    model = make(BERT, network_args=small, feature_layer=["embeddings", 0, -1]).eval()
    found = model(batch)
    assert list(found) == ["embeddings", "layer.0", "layer.1"]
    first = slice(0, 1), slice(0, int(batch.mask[0].sum()))
    words = model.bert.embeddings(batch.tokens[first], batch.segment[first])
    torch.testing.assert_close(found["embeddings"][:1], words.mean(1))
    assert not torch.allclose(found["layer.0"], found["layer.1"])
    model.feature_layer, model.feature_layers = None, []
    assert torch.equal(model(batch), found["layer.1"])
    run = trainer(tmp_path, LinearEvaluation())
    scores = run.test(make(BERT, feature_layer=["embeddings", 0]), data(BERT), verbose=False)
    assert {"test/linear_top1/embeddings", "test/linear_top1/layer.0"} <= set().union(*scores)
    with pytest.raises(ValueError, match=r"feature_layer 1 is no layer of .*: take a place from -1 to 0, or emb"):
        make(BERT, feature_layer=1)


def test_whole_words_reach_the_step(batch):
    model, pieces = make(BERT, whole_word=True), make(BERT)
    model.uniform = pieces.uniform = uniform
    assert model.training_step(batch, 0)["mlm_loss"] != pieces.training_step(batch, 0)["mlm_loss"]
    nats, _ = model.masked(batch, masks_of(batch, True))
    used = masks_of(batch, True).used.sum()
    torch.testing.assert_close(model.training_step(batch, 0)["mlm_loss"], nats.sum() / used)


def tied(model):
    return model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_embeddings_stay_tied_and_the_tokenizer_stays_with_the_checkpoint(tmp_path):
    model = make(BERT)
    trainer(tmp_path, max_steps=1).fit(model, data(BERT))
    last = tmp_path / "checkpoints" / "last.ckpt"
    again = make(BERT)
    docs = data(BERT)
    trainer(tmp_path, max_steps=2).fit(again, docs, ckpt_path=last, weights_only=True)
    assert tied(again)
    assert torch.equal(again.cls.predictions.decoder.weight, again.bert.embeddings.word_embeddings.weight)
    assert not torch.equal(again.cls.predictions.decoder.weight, model.cls.predictions.decoder.weight)
    saved = torch.load(last, weights_only=True)["ssl_lightning"]
    assert saved["tokenizer"] == docs.pieces.json
    assert tied(BERT.load_from_checkpoint(last, weights_only=True))

    strange = data(BERT)
    strange.use_tokenizer(train(lambda: ["other words"], 400), "elsewhere")
    with pytest.raises(ValueError, match="the tokenizer of the data is not that of the checkpoint"):
        trainer(tmp_path, max_steps=3).fit(make(BERT), strange, ckpt_path=last, weights_only=True)


def test_biases_and_norms_do_not_decay(tmp_path):
    model = make(BERT, lr=1e-4)
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, data(BERT))
    decayed, other = run.optimizers[0].param_groups
    assert (decayed["weight_decay"], other["weight_decay"]) == (0.01, 0.0)
    assert (decayed["betas"], decayed["eps"], decayed["initial_lr"]) == ((0.9, 0.999), 1e-6, 1e-4)
    vectors = {n for n, p in model.named_parameters() if any(p is q for q in other["params"])}
    assert vectors == {n for n, _ in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n}


def test_held_out_scores_are_means_over_all_masked_tokens_and_pairs(tmp_path):
    model, docs = make(BERT).eval(), data(BERT, batch_size=7)
    run = trainer(tmp_path, limit_val_batches=1.0)
    run.validate(model, docs, verbose=False)
    docs.setup("validate")
    _, _, pairs = docs.val_dataloader()
    whole = pairs.dataset[list(range(len(pairs.dataset)))]
    nats, random_next = model.masked(whole, masks_of(whole))
    mlm = (nats.double().sum() / masks_of(whole).used.sum()).item()
    accuracy = (random_next.argmax(1) == whole.random_next).double().mean().item()
    assert {key: value.item() for key, value in run.callback_metrics.items()} == {
        "val/pretext_mlm_loss": pytest.approx(mlm, rel=1e-4),
        "val/pretext_perplexity": pytest.approx(math.exp(mlm), rel=1e-3),
        "val/pretext_nsp_accuracy": pytest.approx(accuracy, rel=1e-4),
    }
    assert [f"val/{name}" for name in model.protocols] == list(run.callback_metrics)


# ---- Hugging Face's folders


@pytest.fixture
def saved(tmp_path):
    """A model trained for a step, its data and its checkpoint."""
    model, docs = make(BERT), data(BERT)
    trainer(tmp_path, max_steps=1).fit(model, docs)
    return model.eval(), docs, tmp_path / "checkpoints" / "last.ckpt"


def test_an_exported_folder_gives_equal_outputs_in_the_transformers_library(saved, tmp_path):
    model, docs, checkpoint = saved
    assert export(checkpoint, tmp_path / "hf") == {}
    theirs, info = BertForPreTraining.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = ["The pass statement does nothing.", "Unseen wörds!"]
    inputs = tokenizer(texts, texts[::-1], padding=True, return_tensors="pt")
    assert [ids[1:-1] for ids in tokenizer(texts).input_ids] == docs.pieces.encode(texts)
    assert (tokenizer.mask_token_id, tokenizer.model_max_length) == (4, 32)
    out = theirs.eval()(**inputs, output_hidden_states=True)
    ours = model.outputs(inputs.input_ids, inputs.token_type_ids, inputs.attention_mask.bool())
    hidden, pooled = ours.last_hidden_state, ours.pooler_output
    torch.testing.assert_close(ours.hidden_states, out.hidden_states)
    torch.testing.assert_close(model.cls(hidden, pooled), (out.prediction_logits, out.seq_relationship_logits))
    with pytest.raises(FileExistsError, match="hf exists: give the name of a new folder"):
        export(checkpoint, tmp_path / "hf")
    with pytest.raises(ValueError, match="drop --which and --layout"):
        export(checkpoint, tmp_path / "other", which="teacher")


def test_a_folder_of_the_transformers_library_is_gone_on_from(saved, tmp_path, batch):
    model, docs, checkpoint = saved
    export(checkpoint, tmp_path / "hf")
    folder = str(tmp_path / "hf")
    ours = BERT(vocab_size=400, mask_token=4, weights=folder)
    assert ours.training
    assert ours.bert.training
    assert tied(ours)
    assert ours.tokenizer.meaning == docs.pieces.meaning
    torch.testing.assert_close(ours.eval()(batch), model(batch))
    ours.train()
    trainer(tmp_path / "on", max_steps=1).fit(ours, data(BERT, tokenizer=folder, vocab_size=None))
    (tmp_path / "hf" / "config.json").unlink()  # its own checkpoint holds all
    again = BERT.load_from_checkpoint(tmp_path / "on" / "checkpoints" / "last.ckpt", weights_only=True)
    assert torch.equal(again.eval()(batch), ours.eval()(batch))


def test_weights_without_heads_get_new_ones(saved, tmp_path):
    model, docs, _ = saved
    model.bert.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").write_text(docs.pieces.json)
    ours = BERT(vocab_size=400, mask_token=4, weights=str(tmp_path / "bare"))
    assert torch.equal(ours.bert.pooler.dense.weight, model.bert.pooler.dense.weight)
    assert tied(ours)


def test_bad_input(saved, tmp_path, monkeypatch):
    _, _, checkpoint = saved
    export(checkpoint, tmp_path / "hf")
    folder = str(tmp_path / "hf")
    args = {"vocab_size": 400, "mask_token": 4}
    with pytest.raises(ValueError, match=r"unknown size 'bass'. Did you mean base\? Known: tiny, .*large"):
        BERT(**args, size="bass")
    with pytest.raises(ValueError, match="BERT's configuration has no 'hiden_size'"):
        BERT(**args, network_args={"hiden_size": 3})
    with pytest.raises(FileNotFoundError, match=r"no config.json in .*nothere"):
        BERT(**args, weights=str(tmp_path / "nothere"))
    with pytest.raises(ValueError, match=r"a vocabulary of 400, the data one of 500: give --data.tokenizer .*hf"):
        BERT(**{**args, "vocab_size": 500}, weights=folder)
    with pytest.raises(ValueError, match=r"drop size, positions and position_init: .*hf says which they are"):
        BERT(**args, weights=folder, size="tiny")
    strange = data(BERT)
    strange.use_tokenizer(train(lambda: ["other words"], 400), "elsewhere")
    with pytest.raises(ValueError, match="the tokenizer of the data is not that of the weights"):
        trainer(tmp_path / "a", max_steps=1).fit(BERT(**args, weights=folder), strange)
    with pytest.raises(ValueError, match="drop network_args"):
        trainer(tmp_path / "b", max_steps=1).fit(
            BERT(**args, weights=folder, network_args={}, positions=32), data(BERT)
        )
    with pytest.raises(ValueError, match=r"sequences of 48 tokens do not fit 32 positions: give --data.max_tokens 32"):
        trainer(tmp_path / "c", max_steps=1).fit(make(BERT), data(BERT, max_tokens=48))
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))
    with pytest.raises(ValueError, match=r"hf holds a model of the kind roberta, which is not BERT"):
        BERT(**args, weights=folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ssl-lightning\[text\]'"):
        BERT(**args)


def test_loaders_without_a_datamodule_have_no_tokenizer_to_keep(tmp_path):
    docs = data(BERT)
    docs.setup("fit")
    trainer(tmp_path, max_steps=1).fit(make(BERT), docs.train_dataloader(), docs.val_dataloader())
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["ssl_lightning"]["tokenizer"] is None


def test_attention_is_the_softmax_of_queries_and_keys(batch):
    model = make(BERT).eval()
    features = model(batch)
    (found,) = model.attention(batch)
    layer = model.bert.encoder.layer[0].attention.self
    x = model.bert.embeddings(input_ids=batch.tokens, token_type_ids=batch.segment)
    query, key = (part(x).unflatten(2, (2, 8)).transpose(1, 2) for part in (layer.query, layer.key))
    scores = (query @ key.mT / math.sqrt(8)).masked_fill(~batch.mask[:, None, None], float("-inf"))
    torch.testing.assert_close(found.layers["layer.0"], scores.softmax(-1), rtol=1e-5, atol=1e-6)
    assert [len(row) for row in found.queries] == batch.mask.sum(1).tolist()
    assert torch.equal(model(batch), features)  # read as before
    assert isinstance(model, GivesAttention)


def test_the_loss_of_held_out_words_leaves_out_unused_slots(tmp_path):
    model, pairs = make(BERT, whole_word=True).eval(), data(BERT)  # no word may fit a slot
    run = trainer(tmp_path, limit_val_batches=1.0)
    run.validate(model, pairs, verbose=False)
    total = count = 0.0
    least = 1.0
    for batch in pairs.val_dataloader()[-1]:
        masks = masks_of(batch, whole_word=True)
        nats, _ = model.masked(batch, masks)
        total, count = total + nats.sum().item(), count + masks.used.sum().item()
        least = min(least, masks.used.min().item())
    assert least == 0  # there are such slots
    assert run.callback_metrics["val/pretext_mlm_loss"].item() == pytest.approx(total / count, rel=1e-4)
    assert run.callback_metrics["val/pretext_perplexity"].item() == pytest.approx(math.exp(total / count), rel=1e-3)


def test_positions_may_begin_with_sines_of_half_the_size_of_the_normal_ones():
    normal, sines = (
        make(BERT, position_init=start).bert.embeddings.position_embeddings.weight for start in ("normal", "sinusoidal")
    )
    rate = 10000 ** (-4 / 16)  # of the third pair of 16
    amplitude = 0.5**0.5 * 0.02
    assert sines[7, 4].item() == pytest.approx(amplitude * math.sin(7 * rate), abs=1e-6)
    assert sines[7, 5].item() == pytest.approx(amplitude * math.cos(7 * rate), abs=1e-6)
    assert sines.square().mean().item() == pytest.approx(normal.square().mean().item() / 4, rel=0.2)
    assert sines.requires_grad


def test_more_tokens_are_masked_in_training_and_held_out_text_is_scored_with_the_paper_s_share(batch, tmp_path):
    model, seen = make(BERT, mask_ratio=0.4), []
    inner = model.masked
    model.masked = lambda batch, masks: seen.append(masks.used.sum(1) / batch.mask.sum(1)) or inner(batch, masks)
    model.uniform = uniform
    model.training_step(batch, 0)
    model.log = lambda *args, **kwargs: None
    model.measure(batch, "test")
    trained, scored = (share.mean().item() for share in seen)
    assert trained == pytest.approx(0.4, abs=0.03)
    assert scored == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize("wrong", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"position_init": "cosine"}])
def test_how_to_mask_and_to_begin_is_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(BERT, **wrong)
