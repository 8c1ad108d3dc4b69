"""CLIP's loss, scale and text encoder, and its weights from and for other libraries."""

import json
import math

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from callbacks import ZeroShot
from datamodules import Digits
from datamodules.byte_pairs import BytePairs, train
from ssl_lightning.export import export
from ssl_lightning.methods import CLIP
from ssl_lightning.methods.contrastive.clip import MAX_SCALE, clip_loss, siglip_loss
from ssl_lightning.optim import param_groups
from ssl_lightning.text_transformer import TextTransformer
from tests.methods.tiny import data, make, trainer, training_batch

SENTENCES = ["a dog on the grass", "two cats", "", "a very long sentence about nothing at all " * 3]


def pairs(n=5, dim=7):
    return (F.normalize(torch.randn(n, dim, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2))


def test_the_loss_is_that_of_the_paper():
    u, v = pairs()
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(5):  # figure 3, row by row
        of_image = sum(torch.exp(scale * u[i] @ v[j]) for j in range(5))
        of_text = sum(torch.exp(scale * u[j] @ v[i]) for j in range(5))
        expected = expected - (2 * scale * (u[i] @ v[i]) - torch.log(of_image) - torch.log(of_text)) / 10
    loss = clip_loss(u, v, scale)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(loss, (u, v, scale)), torch.autograd.grad(expected, (u, v, scale)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_loss_of_siglip_is_that_of_the_paper():
    u, v = pairs()
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (10.0, -10.0))
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(5):  # equation 1
        for j in range(5):
            z = 1 if i == j else -1
            expected = expected + torch.log1p(torch.exp(-z * (scale * u[i] @ v[j] + bias))) / 5
    loss = siglip_loss(u, v, scale, bias)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(x, (u, v, scale, bias)) for x in (loss, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    model = make(CLIP, loss="siglip")
    assert math.isclose(model.logit_scale.item(), math.log(10), rel_tol=1e-6)
    assert model.logit_bias.item() == -10


def test_an_untrained_model_knows_nothing():
    """Its loss is about ln B where the scale does not yet spread the random similarities."""
    model = make(CLIP)
    assert math.isclose(model.logit_scale.item(), 2.6592, rel_tol=1e-4)
    model.logit_scale.data.zero_()
    loss = model.training_step(training_batch(CLIP, model, "cpu"), 0)["loss"]
    assert abs(loss.item() - math.log(16)) < 0.1
    wide = make(CLIP, embed_dim=512, text_width=64)
    assert abs(wide.training_step(training_batch(CLIP, wide, "cpu"), 0)["loss"].item() - math.log(16)) < 0.6


def pulled_up():
    """A model whose every step would make the scale larger, and what the scale is at each step."""
    model = make(CLIP, optimizer="SGD", lr=0.1, warmup_epochs=0, schedule="constant")
    seen, original = [], model.training_step

    def step(batch, batch_idx):
        seen.append(model.logit_scale.item())
        return {"loss": original(batch, batch_idx)["loss"] - 100 * model.logit_scale}

    model.training_step = step
    return model, seen


def test_the_scale_is_never_above_100(tmp_path):
    model, seen = pulled_up()
    trainer(tmp_path, max_steps=2).fit(model, data(CLIP))
    assert seen[0] < 3 < 4.6 < seen[1] <= MAX_SCALE + 1e-6
    last = tmp_path / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)["state_dict"]["logit_scale"].item()
    assert math.isclose(saved, MAX_SCALE, rel_tol=1e-6)
    again, seen = pulled_up()
    trainer(tmp_path / "more", max_steps=4).fit(again, data(CLIP), ckpt_path=last, weights_only=True)
    assert seen == [saved] * 2
    assert again.logit_scale.item() == saved


def test_the_scale_biases_and_norms_are_not_decayed():
    model = make(CLIP)
    decayed, free = param_groups(model, model.weight_decay, model.decay_norm_and_bias)
    assert any(p is model.logit_scale for p in free["params"])
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.2, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])


def test_a_token_sees_nothing_behind_it_and_the_first_end_is_taken():
    text = TextTransformer(300, 24, 299, embed_dim=8, width=16, layers=2, heads=2, quick_gelu=False)
    tokens = torch.randint(298, (2, 24))
    tokens[:, 9] = 299
    out = text(tokens)
    tokens[:, 10:] = torch.randint(300, (2, 14))
    assert torch.equal(text(tokens), out)
    tokens[:, 8] = (tokens[:, 8] + 1) % 298
    assert not torch.allclose(text(tokens), out)


def test_the_tokenizer_is_kept_and_another_one_refused(tmp_path):
    model = make(CLIP)
    trainer(tmp_path, max_steps=1).fit(model, data(CLIP))
    last = tmp_path / "checkpoints" / "last.ckpt"
    again = CLIP.load_from_checkpoint(last, weights_only=True).eval()
    assert again.tokenizer.json == model.tokenizer.json
    assert torch.equal(again.text_embeddings(["the digit two"]), model.eval().text_embeddings(["the digit two"]))
    (tmp_path / "tokenizer.json").write_text(train(["other words"], 300))
    with pytest.raises(ValueError, match="the tokenizer of the data is not that of the checkpoint"):
        trainer(tmp_path / "other", max_steps=2).fit(
            make(CLIP), data(CLIP, tokenizer=str(tmp_path)), ckpt_path=last, weights_only=True
        )
    with pytest.raises(ValueError, match=r"has 290 pieces and the end token 289, the model 300 and 299"):
        make(CLIP).take_tokenizer(BytePairs(train(["a"], 290)), "ours")
    with pytest.raises(ValueError, match="not been trained on captions"):
        make(CLIP).text_embeddings(["a"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "cosine"}, "loss must be clip or siglip, got 'cosine'"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"text_heads": 3}, "text_width must be a multiple of text_heads, got 16 and 3"),
    ],
)
def test_wrong_numbers(changes, words):
    with pytest.raises(ValueError, match=words):
        make(CLIP, **changes)


# ---- other libraries


@pytest.fixture(scope="module")
def tokenizer():
    return train([*SENTENCES, "hello"], 300)


def their_transformers(folder, tokenizer, act="quick_gelu", end=299):
    torch.manual_seed(1)
    shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 12, "hidden_act": act}
    text = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 128, "max_position_embeddings": 24}
    text |= {"eos_token_id": end, "bos_token_id": 298, "pad_token_id": 0}
    vision = {"hidden_size": 48, "intermediate_size": 96, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=12)
    theirs = transformers.CLIPModel(config).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.2)
    theirs.logit_scale.data.fill_(3.0)
    theirs.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer)
    return theirs


def ours_of(folder):
    return CLIP(vocab_size=300, end_token=299, max_tokens=24, image_size=32, weights=str(folder)).eval()


def inputs(model):
    x = torch.rand(3, 3, 32, 32)
    return x, (x - model.backbone.mean) / model.backbone.std, torch.from_numpy(model.tokenizer(SENTENCES, 24))


def same_as_transformers(theirs, ours):
    x, normalised, tokens = inputs(ours)
    with torch.no_grad():
        images = theirs.visual_projection(theirs.vision_model(normalised).pooler_output)
        texts = theirs.text_projection(theirs.text_model(tokens).pooler_output)
        torch.testing.assert_close(ours.encode_image(x), images, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.text(tokens), texts, rtol=1e-4, atol=1e-5)
    assert ours.logit_scale.item() == theirs.logit_scale.item()


@pytest.mark.parametrize(("act", "end"), [("quick_gelu", 299), ("gelu", 299), ("quick_gelu", 2)])
def test_a_clip_of_transformers_loads_and_ours_exports_to_it(act, end, tmp_path, tokenizer):
    theirs = their_transformers(tmp_path / "theirs", tokenizer, act, end)
    ours = ours_of(tmp_path / "theirs")
    assert ours.hparams["quick_gelu"] == (act == "quick_gelu")
    same_as_transformers(theirs, ours)
    fit = trainer(tmp_path, max_steps=1, limit_train_batches=1)
    again = CLIP(300, 299, 24, image_size=32, weights=str(tmp_path / "theirs"), lr=0.0)
    fit.fit(again, data(CLIP, image_size=32, tokenizer=str(tmp_path / "theirs")))
    last = tmp_path / "checkpoints" / "last.ckpt"
    (tmp_path / "theirs" / "config.json").unlink()  # the checkpoint holds all
    loaded = CLIP.load_from_checkpoint(last, weights_only=True).eval()
    export(last, tmp_path / "out", layout="transformers")
    same_as_transformers(transformers.CLIPModel.from_pretrained(tmp_path / "out").eval(), loaded)
    same_as_transformers(theirs, loaded)
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_clip_of_open_clip_loads_and_ours_exports_to_it(quick_gelu, tmp_path, tokenizer):
    folder = tmp_path / "theirs"
    folder.mkdir()
    vision = {"image_size": 32, "layers": 2, "width": 48, "head_width": 24, "patch_size": 8}
    text = {"context_length": 24, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2}
    config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick_gelu}
    torch.manual_seed(1)
    theirs = open_clip.CLIP(12, vision, text, quick_gelu=quick_gelu).eval()
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std}})
    )
    torch.save(theirs.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "tokenizer.json").write_text(tokenizer)
    ours = ours_of(folder)
    assert ours.backbone.mean.flatten().tolist() == pytest.approx(mean)

    def same(theirs):
        x, normalised, tokens = inputs(ours)
        with torch.no_grad():
            torch.testing.assert_close(ours.encode_image(x), theirs.encode_image(normalised), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours.text(tokens), theirs.encode_text(tokens), rtol=1e-4, atol=1e-5)

    same(theirs)
    fit = trainer(tmp_path, max_steps=1, limit_train_batches=1)
    fit.fit(
        CLIP(300, 299, 24, image_size=32, weights=str(folder), lr=0.0),
        data(CLIP, image_size=32, tokenizer=str(folder)),
    )
    export(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "out", layout="open_clip")
    same(open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval())


TOWER = {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 2}


@pytest.fixture
def small(tmp_path):
    """The checkpoint of a CLIP that both libraries have."""
    model = make(CLIP, backbone="vit_base_patch32_clip_224", backbone_args=TOWER, image_size=32)
    trainer(tmp_path, max_steps=1, limit_train_batches=1).fit(model, data(CLIP, image_size=32))
    return tmp_path / "checkpoints" / "last.ckpt"


def test_what_is_exported_numbers_words_as_ours(small, tmp_path):
    words = ["The digit  two", "a photo", "naïve " * 30]
    ours = CLIP.load_from_checkpoint(small, weights_only=True).tokenizer(words, 24)
    export(small, tmp_path / "a", layout="transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    for row, ids in zip(ours.tolist(), theirs(words, truncation=True).input_ids, strict=True):
        assert row[: len(ids)] == ids
        assert not any(row[len(ids) :])
    export(small, tmp_path / "b", layout="open_clip")
    padded = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'b'}")(words)
    ends = (padded == 299).int().argmax(1)
    assert ends.tolist() == (ours == 299).argmax(1).tolist()
    for row, expected, end in zip(padded.tolist(), ours.tolist(), ends.tolist(), strict=True):
        assert row[: end + 1] == expected[: end + 1]


@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
def test_what_is_exported_comes_back(layout, small, tmp_path):
    """With the mean and standard deviation of its images, which are not OpenAI's."""
    ours = CLIP.load_from_checkpoint(small, weights_only=True).eval()
    export(small, tmp_path / "out", layout=layout)
    again = CLIP(weights=str(tmp_path / "out"), image_size=32).eval()
    assert (again.text.end_token, again.max_tokens) == (299, 24)
    x, words = torch.rand(3, 3, 32, 32), ["the digit two", "a photo"]
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(x), ours.encode_image(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.text_embeddings(words), ours.text_embeddings(words), rtol=1e-4, atol=1e-5)


def test_weights_are_scored_as_they_are_or_not_at_all(small, tmp_path):
    export(small, tmp_path / "out", layout="transformers")
    weights, digits = str(tmp_path / "out"), Digits(image_size=32)
    (scores, *_) = trainer(tmp_path / "a", ZeroShot()).test(CLIP(weights=weights, image_size=32), digits, verbose=False)
    assert "test/zeroshot_top1" in scores
    built = CLIP(300, 299, 24, image_size=32, weights=weights, backbone="convnet")  # new weights
    with pytest.raises(ValueError, match=r"drop backbone=convnet: .* says which it is"):
        trainer(tmp_path / "b", ZeroShot()).test(built, digits, verbose=False)
    with pytest.raises(ValueError, match="CLIP learns from images with captions, such as ImageTextCSV: Digits has"):
        trainer(tmp_path / "c", max_steps=1).fit(CLIP(weights=weights, image_size=32), digits)


def test_what_does_not_load_or_export_says_why(small, tmp_path, tokenizer):
    with pytest.raises(ValueError, match="CLIP needs vocab_size and end_token: give data with captions"):
        CLIP()
    export(small, tmp_path / "open", layout="open_clip")
    config = tmp_path / "open" / "open_clip_config.json"
    said = json.loads(config.read_text())
    said["model_cfg"]["text_cfg"]["no_causal_mask"] = True
    config.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"has text_cfg\.no_causal_mask, which a CLIP of OpenAI's kind has not"):
        CLIP(weights=str(tmp_path / "open"))
    their_transformers(tmp_path / "theirs", tokenizer)
    weights = str(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    whole = load_file(file)
    save_file({k: v for k, v in whole.items() if "post_layernorm" not in k}, file)
    with pytest.raises(ValueError, match=r"lacks backbone\.net\.norm\.bias: it is not a CLIP of"):
        ours_of(weights)
    save_file(whole, file)
    for changes, words in (
        ({"max_tokens": 77}, r"has max_tokens 24, not 77: give --data\.max_tokens 24"),
        ({"vocab_size": 400}, r"has vocab_size 300, not 400: give --data\.tokenizer .*theirs"),
        ({"text_width": 64}, r"has text_width 32, not 64: give --model\.text_width null"),
    ):
        with pytest.raises(ValueError, match=words):
            CLIP(weights=weights, **{"image_size": 32, **changes})
    with pytest.raises(FileNotFoundError, match=r"no config\.json and no open_clip_config\.json"):
        CLIP(300, 299, weights=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="a model of the kind bert, which is not clip"):
        CLIP(300, 299, weights=str(tmp_path))
    trainer(tmp_path / "other", max_steps=1).fit(make(CLIP), data(CLIP))
    last = tmp_path / "other" / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match="transformers has no CLIP on convnet"):
        export(last, tmp_path / "out", layout="transformers")
    with pytest.raises(ValueError, match="for a CLIP, which has no teacher"):
        export(last, tmp_path / "out", which="teacher", layout="transformers")
