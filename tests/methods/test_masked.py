"""MAE and SimMIM against their equations."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.batch import ImageBatch
from ssl_lightning.export import load_backbone
from ssl_lightning.masked import encode
from ssl_lightning.methods import MAE, SimMIM
from ssl_lightning.methods.masked.mae import Decoder
from ssl_lightning.patches import sincos_positions
from tests.methods.tiny import data, make, trainer

DEEP = {"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
BOTH = [MAE, SimMIM]


def batch(n=6, size=16):
    image = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
    return ImageBatch(image, torch.zeros(n).long(), torch.arange(n) + 5, (image / 255,))


def split(model, n=6):
    return model.split(torch.rand(n, model.draws), torch.device("cpu"))


def blocks(vit, tokens, seen):
    """Pre-norm blocks by hand in float64; every token attends to the seen ones alone."""
    x = tokens.double()
    for block in vit.blocks.double():
        b, n, d = x.shape
        heads = block.attn.num_heads
        qkv = block.attn.qkv(block.norm1(x)).view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        logits = qkv[0] @ qkv[1].mT / math.sqrt(d // heads)
        attention = logits.masked_fill(~seen[:, None, None], -math.inf).softmax(-1)
        x = x + block.attn.proj((attention @ qkv[2]).transpose(1, 2).flatten(2))
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
    return vit.norm.double()(x)


def pixels(model, x):
    """Normalised squares by slicing, in float64: [image][patch] (P,)."""
    x = (x.double() - model.backbone.mean.double()) / model.backbone.std.double()
    p, side = model.patch, x.shape[-1] // model.patch
    cut = [(r * p, c * p) for r in range(side) for c in range(side)]
    return [[image[:, r : r + p, c : c + p].permute(1, 2, 0).flatten() for r, c in cut] for image in x]


def embedded(model, x):
    """Patches by the projection as a matrix, in float64."""
    proj = model.vit.patch_embed.proj
    matrix = proj.weight.double().permute(0, 2, 3, 1).flatten(1)  # (D, P)
    return torch.stack([torch.stack(patches) for patches in pixels(model, x)]) @ matrix.T + proj.bias.double()


@torch.no_grad()
def test_the_encoder_sees_the_visible_patches_as_if_there_were_no_others():
    model = make(MAE, backbone_args=DEEP).eval()
    x, (visible, hidden) = batch().views[0], split(model)
    found = encode(model.vit, model.vit.patch_embed(model.backbone.normalise(x)), visible)
    tokens = torch.cat([model.vit.cls_token.expand(6, -1, -1), embedded(model, x)], 1) + model.vit.pos_embed.double()
    seen = torch.ones(6, 17, dtype=torch.bool).scatter(1, 1 + hidden, False)
    expected = blocks(model.vit, tokens, seen)
    rows = torch.arange(6)[:, None]
    torch.testing.assert_close(found[:, 0].double(), expected[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, 1:].double(), expected[rows, 1 + visible], rtol=1e-4, atol=1e-5)
    assert visible.shape[1] == 4


@torch.no_grad()
@pytest.mark.parametrize("cls", BOTH)
def test_the_encoder_of_all_patches_is_the_backbone(cls):
    model, x = make(cls, backbone_args=DEEP).eval(), batch().views[0]
    tokens = encode(model.vit, model.vit.patch_embed(model.backbone.normalise(x)))
    torch.testing.assert_close(tokens[:, 0], model(x))  # the class token


@torch.no_grad()
@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_the_loss_of_mae_equals_a_loop(norm_pix_loss):
    model = make(MAE, norm_pix_loss=norm_pix_loss).eval()
    b, (visible, hidden) = batch(), split(model)
    told, found = model.tell(b.views[0], visible, hidden), model.errors(b.views[0], visible, hidden)
    for i, patches in enumerate(pixels(model, b.views[0])):
        errors = []
        for m, place in enumerate(hidden[i].tolist()):
            target = patches[place].tolist()
            if norm_pix_loss:
                mean = sum(target) / 48
                variance = sum((v - mean) ** 2 for v in target) / 47
                target = [(v - mean) / math.sqrt(variance + 1e-6) for v in target]
            errors += [(t - v) ** 2 for t, v in zip(told[i, m].tolist(), target, strict=True)]
        assert len(errors) == 12 * 48
        assert found[i].item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)


@torch.no_grad()
def test_the_decoder_puts_patches_and_mask_tokens_in_their_places():
    model = make(MAE).eval()
    decoder, (visible, hidden) = model.decoder, split(model)
    latent = torch.randn(6, 1 + visible.shape[1], 16)
    x = decoder.embed(latent)
    tokens = decoder.mask_token.expand(6, 17, -1).clone()
    for i in range(6):
        tokens[i, 0] = x[i, 0]
        for j, place in enumerate(visible[i].tolist()):
            tokens[i, 1 + place] = x[i, 1 + j]
    out = decoder.head(decoder.norm(decoder.blocks(tokens + decoder.positions)))
    expected = torch.stack([out[i, 1 + hidden[i]] for i in range(6)])
    torch.testing.assert_close(decoder(latent, visible, hidden), expected)


@torch.no_grad()
def test_the_loss_of_simmim_equals_the_reference():
    """The authors' formula: |x - x'| on a mask of pixels, over its sum + 1e-5, over 3 channels."""
    model = make(SimMIM, backbone_args=DEEP).eval()  # squares of 8 px on 16 px: 3 of 4 are hidden
    b, (visible, hidden) = batch(), split(model)
    mask = torch.zeros(6, 16, dtype=torch.bool).scatter(1, hidden, True)
    squares = mask.view(6, 2, 2, 2, 2).transpose(2, 3).flatten(3).flatten(1, 2)
    assert squares.all(2).sum(1).tolist() == [3] * 6
    assert squares.any(2).sum(1).tolist() == [3] * 6
    tokens = torch.where(mask[..., None], model.mask_token.double(), embedded(model, b.views[0]))
    tokens = torch.cat([model.vit.cls_token.expand(6, -1, -1).double(), tokens], 1) + model.vit.pos_embed.double()
    found = model.errors(b.views[0], visible, hidden).mean()
    out = blocks(model.vit, tokens, torch.ones(6, 17, dtype=torch.bool))[:, 1:]
    told = out @ model.decoder.weight.double().T + model.decoder.bias.double()
    total = sum(
        (told[i, n] - patch).abs().sum() * mask[i, n]
        for i, patches in enumerate(pixels(model, b.views[0]))
        for n, patch in enumerate(patches)
    )
    assert found.item() == pytest.approx((total / (mask.sum() * 16 + 1e-5) / 3).item(), rel=1e-4)


@pytest.mark.parametrize("cls", BOTH)
def test_in_bfloat16_the_loss_is_float32_and_nearly_the_same(cls):
    model, b = make(cls).eval(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.training_step(b, 0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model.training_step(b, 0).item(), rel=0.02)


def test_who_tells_nothing_has_the_known_loss():
    args = {"patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = make(MAE, image_size=64, backbone_args=args)
    nn.init.zeros_(model.decoder.head.weight)
    assert model.training_step(batch(size=64), 0).item() == pytest.approx(0.9987, abs=1e-4)  # 767 / 768


@pytest.mark.parametrize("cls", BOTH)
def test_only_hidden_patches_are_learned(cls):
    model, b = make(cls), batch()
    target = model.patches(b.views[0]).requires_grad_()
    model.patches = lambda x: target
    visible, hidden = split(model)
    model.errors(b.views[0], visible, hidden).mean().backward()
    size = target.grad.abs().sum(2)  # (B, N)
    assert size.gather(1, visible).max() == 0
    assert size.gather(1, hidden).min() > 0


@torch.no_grad()
@pytest.mark.parametrize("cls", BOTH)
def test_nothing_of_the_hidden_patches_is_in_what_is_told_or_drawn(cls):
    model, b = make(cls).eval(), batch()
    visible, hidden = model.split(torch.rand(6, model.draws), torch.device("cpu"))
    model.split = lambda u, device: (visible, hidden)
    seen = torch.zeros(6, 16).scatter(1, visible, 1).view(6, 1, 4, 4)
    seen = seen.repeat_interleave(4, 2).repeat_interleave(4, 3)  # of each pixel
    x = b.views[0]
    other = torch.where(seen > 0, x, torch.rand_like(x))
    assert torch.equal(model.tell(x, visible, hidden), model.tell(other, visible, hidden))
    drawn, again = model.pictures(b), model.pictures(b._replace(views=(other,)))
    assert [c.title.split(";")[0] for c in drawn] == ["masked", "told", "image"]
    for one, two, same in zip(drawn, again, (True, True, False), strict=True):
        assert torch.equal(one.images, two.images) == same
    torch.testing.assert_close(drawn[2].images, x)
    for column in drawn:
        torch.testing.assert_close(column.images * seen, x * seen)
        assert ((column.images - x).abs() * (1 - seen)).sum() > 0 or column.title == "image"


def test_drawn_patches_have_the_mean_and_contrast_of_the_visible_ones_nearby():
    model = make(MAE)
    patches = torch.randn(1, 16, 48)
    visible, hidden = torch.tensor([[0, 15]]), torch.tensor([[1]])  # at distances 1 and sqrt(13)
    told = torch.randn(1, 1, 48)
    weight = torch.tensor([1.0, 13.0]).neg().softmax(0)
    mean = sum(w * patches[0, n].mean() for w, n in zip(weight, (0, 15), strict=True))
    std = sum(w * patches[0, n].std() for w, n in zip(weight, (0, 15), strict=True))
    torch.testing.assert_close(model.pixels(told, patches, visible, hidden), told * std + mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cls", BOTH)
def test_the_mask_is_of_seed_epoch_and_image_and_hides_every_patch_equally_often(cls, monkeypatch):
    model = make(cls)

    def hidden(index):
        places = model.split(model.uniform(index, model.draws), torch.device("cpu"))[1]
        return torch.zeros(len(index), 16).scatter(1, places, 1)

    index = torch.arange(4000)
    first = hidden(index)
    assert (first.sum(1) == 12).all()
    assert (first.mean(0) - 0.75).abs().max() < 0.03  # 4 standard errors
    assert torch.equal(hidden(index[7:9]), first[7:9])  # whatever the batch
    monkeypatch.setattr(cls, "current_epoch", 1)
    assert not torch.equal(hidden(index), first)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("vit_base_patch16_224", 111.9), ("vit_large_patch16_224", 329.5), ("vit_huge_patch14_224", 657.1)],
)
def test_the_sizes_are_the_published_ones(name, millions):
    with torch.device("meta"):
        vit = timm.create_model(name, num_classes=0)
        decoder = Decoder(
            vit.embed_dim, 512, 8, 16, vit.patch_embed.grid_size[0], vit.patch_embed.patch_size[0] ** 2 * 3
        )
    n = sum(p.numel() for p in (*vit.parameters(), *decoder.parameters(), decoder.positions))
    assert round(n / 1e6, 1) == millions


def test_the_weights_begin_as_the_authors_do():
    model = make(MAE, backbone_args={**DEEP, "embed_dim": 64})
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            outputs, inputs = len(layer.weight), layer.weight[0].numel()
            limit = math.sqrt(6 / (inputs + outputs))
            assert 0.9 * limit < layer.weight.abs().max() <= limit, name
            assert layer.bias.abs().max() == 0
    assert model.vit.cls_token.std().item() == pytest.approx(0.02, rel=0.4)


def test_the_trained_backbone_is_an_ordinary_one_with_fixed_positions(tmp_path):
    model = make(MAE)
    trainer(tmp_path, max_steps=2).fit(model, data())
    backbone, x = load_backbone(tmp_path / "checkpoints" / "last.ckpt"), torch.rand(2, 3, 16, 16)
    assert torch.equal(backbone(x), model.eval()(x))
    assert torch.equal(backbone.net.pos_embed, sincos_positions(16, 4))


def test_features_may_be_the_mean_of_the_patches():
    model = make(MAE, backbone_args={**DEEP, "global_pool": "avg", "fc_norm": False}).eval()
    x = torch.rand(2, 3, 16, 16)
    tokens = encode(model.vit, model.vit.patch_embed(model.backbone.normalise(x)))
    torch.testing.assert_close(tokens[:, 1:].mean(1), model(x))
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"backbone.net.pos_embed"}


@pytest.mark.parametrize(
    "backbone", ["convnet", "vit_base_patch16_gap_224", "deit_tiny_distilled_patch16_224", "vit_b_16"]
)
def test_other_backbones_are_refused(backbone):
    with pytest.raises(ValueError, match="is none: take vit_base_patch16_224"):
        MAE(backbone=backbone, image_size=32, backbone_args={"depth": 1} if "patch16" in backbone else {})


@pytest.mark.parametrize("unit", [0, 6, 12, 32])
def test_squares_that_do_not_fit_are_refused(unit):
    with pytest.raises(ValueError, match=rf"patch of 4 px .* image of 16 px, got {unit}: take one of 4, 8"):
        make(SimMIM, mask_unit=unit)
