"""Attention maps against softmax(Q K^T / sqrt(d_k)) from the weights by hand, and what is drawn and logged of them."""

import json
import math
import multiprocessing

import pytest
import timm
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import nn
from torchvision.models import VisionTransformer

from callbacks.attention_maps import (
    Attention,
    AttentionMaps,
    diversity,
    draw_patches,
    draw_tokens,
    read_attention,
    rollout,
)
from callbacks.results import ResultsFile
from ssl_lightning.methods import BERT, MAE, Classifier, MoCoV3, SimCLR, Transformer
from tests.methods.tiny import data, make, trainer

VIT = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
SELF_SUPERVISED = {"backbone": "vit_tiny_patch16_224", "backbone_args": VIT}


def vit(**changes):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **{**VIT, **changes}).eval()


def inside(net, layer):
    """Input and output of a block's attention in a pass over four images, and the weights that are read in another."""
    x, kept = torch.rand(4, 3, 16, 16), []
    module = net.get_submodule(layer)
    hook = module.register_forward_hook(lambda m, args, out: kept.append((args[0], out)))
    with torch.no_grad():
        net(x)
        hook.remove()
        found = read_attention(net, lambda: net(x))
    return module, *kept[0], found


@pytest.mark.parametrize(
    "changes", [{}, {"qk_norm": True}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}]
)
def test_weights_are_softmax_of_qk_by_hand(changes):
    module, x, out, found = inside(vit(**changes), "blocks.1.attn")
    assert list(found) == ["blocks.0.attn", "blocks.1.attn"]
    weights = found["blocks.1.attn"]
    tokens = x.shape[1]
    assert weights.shape == (4, 2, tokens, tokens)
    torch.testing.assert_close(weights.sum(3), torch.ones(4, 2, tokens))
    matrix, bias = module.qkv.weight.double(), module.qkv.bias.double()
    heads = []
    for h in range(2):
        q, k, v = (x.double() @ matrix[16 * part + 8 * h :][:8].T + bias[16 * part + 8 * h :][:8] for part in range(3))
        q, k = (norm.double()(t) for norm, t in ((module.q_norm, q), (module.k_norm, k)))
        for b in (0, 3):
            for i in (0, tokens - 1):
                e = [math.exp((q[b, i] * k[b, j]).sum().item() / math.sqrt(8)) for j in range(tokens)]
                assert weights[b, h, i].tolist() == pytest.approx([value / sum(e) for value in e], abs=1e-6)
        heads.append(weights[:, h].double() @ v)
    again = torch.cat(heads, dim=2) @ module.proj.weight.double().T + module.proj.bias.double()
    torch.testing.assert_close(again.float(), out)  # what the module itself made of its input
    assert not module.float().qkv._forward_pre_hooks


def test_torchvision_s_transformers_can_be_read():
    torch.manual_seed(0)
    net = VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16).eval()
    x, seen = torch.rand(2, 3, 16, 16), []
    module = net.encoder.layers[1].self_attention
    module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    nn.init.normal_(module.in_proj_bias)
    with torch.no_grad():
        found = read_attention(net, lambda: net(x))
        _, theirs = module(seen[0], seen[0], seen[0], average_attn_weights=False)
    assert len(found) == 2
    torch.testing.assert_close(list(found.values())[1], theirs)


def compiled_and_eager():
    net, x = vit(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = read_attention(net, lambda: net(x))
        net.compile(backend="eager")
        net(x)
        found = read_attention(net, lambda: net(x))
    return len(found), found.keys() == expected.keys() and all(torch.equal(found[n], w) for n, w in expected.items())


def test_compiled_networks_can_be_read():
    with multiprocessing.get_context("fork").Pool(1) as pool:  # else no later test could fork and train
        assert pool.apply(compiled_and_eager) == (2, True)


def random_weights(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)


def test_rollout_is_that_of_a_loop():
    layers = random_weights(3, 2, 4, 5, 5).unbind(0)
    found = rollout(layers)
    for b in range(2):
        total = [[float(i == j) for j in range(5)] for i in range(5)]
        for weights in layers:
            mixed = [
                [sum(weights[b, h, i, j].item() for h in range(4)) / 8 + (i == j) / 2 for j in range(5)]
                for i in range(5)
            ]
            total = [[sum(mixed[i][k] * total[k][j] for k in range(5)) for j in range(5)] for i in range(5)]
        for i in range(5):
            assert found[b, i].tolist() == pytest.approx(total[i])
    torch.testing.assert_close(found.sum(2), torch.ones(2, 5, dtype=torch.float64))


def test_diversity_is_the_mean_distance_of_pairs_of_heads():
    weights = random_weights(2, 3, 4, 5)
    queries = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]])
    total = count = 0
    for b in range(2):
        for i in range(4):
            for a in range(3):
                for c in range(a):
                    apart = sum(abs(weights[b, a, i, j] - weights[b, c, i, j]).item() for j in range(5)) / 2
                    total, count = total + apart * queries[b, i].item(), count + queries[b, i].item()
    assert diversity(weights, queries).item() == pytest.approx(total / count)
    assert diversity(weights[:, :1].expand(-1, 3, -1, -1), queries) == pytest.approx(0.0)
    apart = torch.eye(4)[None, :3, None].expand(2, 3, 4, 4)  # each head at a place of its own
    assert diversity(apart, queries) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("cls", "changes"),
    [(SimCLR, SELF_SUPERVISED), (MoCoV3, SELF_SUPERVISED), (Classifier, SELF_SUPERVISED), (MAE, SELF_SUPERVISED)],
)
def test_a_vision_transformer_learns_under_every_kind_of_method_and_is_drawn(cls, changes, tmp_path):
    model = make(cls, **changes)
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    run = trainer(tmp_path, AttentionMaps(every_n_epochs=1, rows=3), max_epochs=1, limit_val_batches=1.0)
    run.fit(model, data(batch_size=256))
    assert all(not torch.equal(p, before[name]) for name, p in model.backbone.named_parameters() if p.requires_grad)
    scores = {name: value for name, value in run.callback_metrics.items() if "diversity" in name}
    assert set(scores) == {f"val/attention_diversity/blocks.{i}.attn" for i in (0, 1)}
    assert all(0 < value < 1 for value in scores.values())
    picture = imread(tmp_path / "pictures" / "attention-val-epoch0000.png")
    assert picture.shape == (460, 560, 4)  # image, two heads and rollout, of three images


def test_the_transformer_s_three_attentions_are_drawn_and_results_name_the_protocol(tmp_path):
    model, pairs = make(Transformer), data(Transformer, batch_size=256)
    trainer(tmp_path, AttentionMaps(rows=2), ResultsFile()).test(model, pairs, verbose=False)
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {f"attention-{kind}-test.png" for kind in ("encoder", "decoder", "cross")}
    results = json.loads((tmp_path / "results.json").read_text())
    name = "test/attention_diversity/decoder.0.cross_attention"
    assert results["protocols"][name] == "attention_diversity-v1: total variation between heads,2 examples"
    assert results["protocols"]["test/exact_match"] == "greedy decoding"
    assert 0 < results["metrics"][name] < 1


def test_bert_is_drawn_with_its_tokens(tmp_path):
    trainer(tmp_path, AttentionMaps(rows=2), ResultsFile()).test(make(BERT), data(BERT), verbose=False)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["attention-bert-test.png"]
    metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert all(0 < metrics[f"test/attention_diversity/layer.{i}"] < 1 for i in range(make(BERT).attention_layers))


def test_drawing_changes_no_training(tmp_path):
    states = []
    for name, callbacks in {"without": (), "with": (AttentionMaps(every_n_epochs=1, rows=1),)}.items():
        model = make(Transformer, dropout=0.1)
        trainer(tmp_path / name, *callbacks, max_epochs=2, limit_train_batches=1).fit(model, data(Transformer))
        states.append([*model.state_dict().values(), torch.rand(2)])
    assert (tmp_path / "with" / "pictures" / "attention-cross-train-epoch0000.png").exists()
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def shown(figure: Figure):
    """The arrays of the maps of each axes, the last drawn in it."""
    return [axes.images[-1].get_array() for axes in figure.axes]


@pytest.mark.parametrize("registers", [0, 2])
def test_a_map_shows_where_the_class_token_looks(registers):
    net = vit(reg_tokens=registers)
    first = 1 + registers
    weights = torch.full((1, 2, 16 + first, 16 + first), 0.01)
    weights[0, 1, 0, first + 6] = 0.9  # second row, third column of 4 x 4 patches
    image, one, two, rolled = shown(draw_patches(torch.rand(1, 3, 16, 16), {"a": weights}, -1, net))
    assert image.shape == (16, 16, 3)
    assert two.shape == rolled.shape == (4, 4)
    assert two.argmax() == rolled.argmax() == 6
    assert (one == one[0, 0]).all()


def test_without_a_class_token_it_is_the_mean_over_patches():
    net = vit(class_token=False, global_pool="avg")
    weights = random_weights(1, 2, 16, 16).float()
    _, one, *_ = shown(draw_patches(torch.rand(1, 3, 16, 16), {"a": weights}, 0, net))
    assert one.flatten().tolist() == pytest.approx([weights[0, 0, :, j].mean().item() for j in range(16)])


def test_matrices_of_tokens_stop_at_their_tokens():
    self_attention = {"a": random_weights(2, 2, 5, 5).float(), "b": random_weights(2, 2, 5, 5).float()}
    figure = draw_tokens(Attention("encoder", self_attention, [["x", "$y", "z"], list("vwxyz")]), 0)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["head 0", "head 1", "rollout"]
    assert [m.shape for m in shown(figure)] == [(3, 3)] * 3 + [(5, 5)] * 3
    assert shown(figure)[1].tolist() == self_attention["a"][0, 1, :3, :3].tolist()
    assert shown(figure)[5].tolist() == rollout(self_attention.values())[1].tolist()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x", "\\$y", "z"]
    figure = draw_tokens(Attention("cross", self_attention, [["x", "y"]] * 2, [["u", "v", "w"]] * 2), 1)
    assert [axes.get_title() for axes in figure.axes] == ["head 0", "head 1"] * 2
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["u", "v", "w"]
    assert shown(figure)[3].tolist() == self_attention["b"][1, 1, :2, :3].tolist()


def test_a_backbone_without_attention_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"no attention of all tokens to all in ssl_lightning/convnet, the backbone of S"
    ):
        trainer(tmp_path, AttentionMaps(), max_epochs=1).fit(make(SimCLR), data())


@pytest.mark.parametrize("layer", [2, -3])
def test_a_layer_that_does_not_exist_is_an_error(layer, tmp_path):
    message = f"there is no layer {layer}; .* has 2 layers with attention, 0 to 1, or -1 for the last"
    for cls, changes in ((Classifier, SELF_SUPERVISED), (Transformer, {"num_layers": 2})):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path, AttentionMaps(layer), max_epochs=1).fit(make(cls, **changes), data(cls))


@pytest.mark.parametrize("arguments", [{"every_n_epochs": -1}, {"rows": 0}])
def test_arguments_out_of_range_are_errors(arguments):
    with pytest.raises(ValueError, match="every_n_epochs must be 0 or more and rows 1 or more"):
        AttentionMaps(**arguments)
