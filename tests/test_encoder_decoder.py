"""The network of the Transformer against torch's own, formulas and counts."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.batch import PAD
from ssl_lightning.attention import MultiHeadAttention
from ssl_lightning.encoder_decoder import EncoderDecoder, positions

SIZES = {"vocab_size": 20, "dim": 16, "hidden_dim": 24, "num_layers": 2, "num_heads": 4, "dropout": 0.1}


def build(**changes):
    torch.manual_seed(0)
    net = EncoderDecoder(**{**SIZES, **changes}).eval()
    for p in net.parameters():
        if p.ndim == 1:
            nn.init.normal_(p, mean=0.5)  # norms and biases that a wrong place would show
    return net


def tokens():
    source = torch.randint(4, 20, (3, 7))
    source[1, 4:] = PAD
    return source, torch.randint(4, 20, (3, 6))


@pytest.mark.parametrize(("dim", "hidden_dim", "heads", "millions"), [(512, 2048, 8, 63.05), (1024, 4096, 16, 214.2)])
def test_base_and_big_have_the_parameters_of_the_paper(dim, hidden_dim, heads, millions):
    with torch.device("meta"):
        net = EncoderDecoder(37000, dim, hidden_dim, 6, heads, 0.1)
        theirs = nn.Transformer(dim, heads, dim_feedforward=hidden_dim, batch_first=True)
    count = sum(p.numel() for p in net.parameters())
    assert count == pytest.approx(millions * 1e6, rel=5e-4)
    # torch's own has two final norms, biases in its attention, and no embedding
    theirs = sum(p.numel() for p in theirs.parameters()) - 4 * dim - 18 * 4 * dim
    assert count == theirs + 37000 * dim
    if dim == 512:
        assert theirs + 4 * dim + 18 * 4 * dim == 44_140_544


def test_positions_are_the_paper_s():
    found = positions(50, 12, torch.device("cpu"))
    for pos in (0, 1, 7, 49):
        for i in range(6):
            angle = pos / 10000 ** (2 * i / 12)
            assert found[pos, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[pos, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_a_token_is_its_embedding_times_sqrt_d_and_its_position():
    net = build()
    x = net.embed(torch.tensor([[5, 6]]))
    expected = net.embedding.weight[[5, 6]] * 4 + positions(2, 16, torch.device("cpu"))
    torch.testing.assert_close(x[0], expected)


def test_it_is_torch_s_transformer_without_the_final_norms():
    net = build()
    layer = {"d_model": 16, "nhead": 4, "dim_feedforward": 24, "dropout": 0.1, "batch_first": True}
    theirs = nn.Transformer(
        16,
        4,
        batch_first=True,
        custom_encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(**layer), 2, enable_nested_tensor=False),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer), 2),
    ).eval()

    def copy(ours, attention):
        with torch.no_grad():
            attention.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
            attention.out_proj.weight.copy_(ours.out.weight)
            attention.in_proj_bias.zero_()
            attention.out_proj.bias.zero_()

    layers = [*theirs.encoder.layers, *theirs.decoder.layers]
    for ours, other in zip([*net.encoder, *net.decoder], layers, strict=True):
        copy(ours.self_attention, other.self_attn)
        if hasattr(ours, "cross_attention"):
            copy(ours.cross_attention, other.multihead_attn)
            other.norm3.load_state_dict(ours.norm3.state_dict())
        other.linear1.load_state_dict(ours.feed_forward[0].state_dict())
        other.linear2.load_state_dict(ours.feed_forward[2].state_dict())
        other.norm1.load_state_dict(ours.norm1.state_dict())
        other.norm2.load_state_dict(ours.norm2.state_dict())
    source, target = tokens()
    blocked = source == PAD  # their True is not to be seen
    out = theirs(
        net.embed(source),
        net.embed(target),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(6),
        src_key_padding_mask=blocked,
        memory_key_padding_mask=blocked,
        tgt_is_causal=True,
    )
    torch.testing.assert_close(net(source, target), out @ net.embedding.weight.T, rtol=1e-5, atol=1e-5)


def test_a_token_gets_no_gradient_from_those_after_it_nor_from_padding():
    net = build()
    source, target = tokens()
    memory, mask = net.encode(source)
    for t in range(6):
        x = net.embed(target).detach().requires_grad_()
        m = memory.detach().requires_grad_()
        y = x
        for layer in net.decoder:
            y = layer(y, m, mask)
        y[:, t].sum().backward()
        moved = x.grad.abs().sum((0, 2)) > 0
        assert moved.tolist() == [i <= t for i in range(6)]
        assert m.grad[1, 4:].abs().sum() == 0
        assert (m.grad[1, :4].abs().sum(1) > 0).all()


def test_padding_changes_nothing():
    net = build()
    source, target = tokens()
    longer = F.pad(source, (0, 3), value=PAD)
    torch.testing.assert_close(net(longer, target), net(source, target))
    torch.testing.assert_close(net(source[1:2, :4], target[1:2]), net(source, target)[1:2])


def test_one_matrix_embeds_and_tells():
    net = build()
    names = [name for name, p in net.named_parameters() if p.shape == (20, 16)]
    assert names == ["embedding.weight"]
    source, target = tokens()
    net.train()
    net(source, target)[0, 0, 9].backward()
    touched = net.embedding.weight.grad.abs().sum(1) > 0
    assert touched[9]  # as a word to say
    assert touched[source[0]].all()  # as words that are heard


@pytest.mark.parametrize("causal", [False, True])
def test_weights_are_those_that_attention_uses(causal):
    torch.manual_seed(0)
    attention = MultiHeadAttention(12, 3)
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    mask = None if causal else (torch.arange(5) < torch.tensor([[3], [5]]))[:, None, None]
    weights = attention.weights(x, memory, mask, causal)
    for b in range(2):
        for h in range(3):
            part = slice(4 * h, 4 * h + 4)
            q = x[b] @ attention.query.weight[part].T
            k = memory[b] @ attention.key.weight[part].T
            for i in range(5):
                seen = range(i + 1) if causal else range((3, 5)[b])
                e = {j: math.exp((q[i] @ k[j]).item() / 2) for j in seen}
                row = [e.get(j, 0.0) / sum(e.values()) for j in range(5)]
                assert weights[b, h, i].tolist() == pytest.approx(row, abs=1e-6)
    heads = weights @ attention.split(attention.value(memory))
    out = attention.out(heads.transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, attention(x, memory, mask, causal))


def test_a_width_that_heads_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match="dim 10 must be a multiple of num_heads, which is 4"):
        MultiHeadAttention(10, 4)
