import pytest
import torch
from lightly.models.utils import get_2d_sincos_pos_embed

from ssl_lightning.patches import (
    number_hidden,
    patch_statistics,
    patchify,
    put,
    shuffled,
    sincos_positions,
    take,
    unpatchify,
)


def test_patches_are_the_squares_of_the_image_and_give_it_back():
    x = torch.rand(2, 3, 12, 12)
    patches = patchify(x, 4)
    for n in range(9):
        row, column = divmod(n, 3)
        square = x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(patches[:, n], square.permute(0, 2, 3, 1).flatten(1))  # (p, q, c), as MAE's
    assert torch.equal(unpatchify(patches, 4), x)


def test_the_statistics_of_a_patch_are_over_pixels_and_channels_and_unbiased():
    patches = torch.rand(2, 5, 12)
    mean, std = patch_statistics(patches)
    for b in range(2):
        for n in range(5):
            values = patches[b, n].double().tolist()
            m = sum(values) / 12
            variance = sum((v - m) ** 2 for v in values) / 11
            assert mean[b, n].item() == pytest.approx(m, rel=1e-5)
            assert std[b, n].item() == pytest.approx((variance + 1e-6) ** 0.5, rel=1e-5)
    assert patch_statistics(torch.zeros(1, 1, 12))[1].item() == pytest.approx(1e-3)


def test_tokens_are_taken_and_put_by_place():
    tokens, places = torch.rand(2, 5, 3), torch.tensor([[4, 0], [1, 3]])
    taken = take(tokens, places)
    assert torch.equal(taken, torch.stack([tokens[0, [4, 0]], tokens[1, [1, 3]]]))
    assert torch.equal(put(tokens, places, taken), tokens)
    gone = put(tokens, places, torch.zeros_like(taken))
    assert gone[0].sum(1).eq(0).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("n", "ratio", "hidden"), [(196, 0.75, 147), (256, 0.75, 192), (49, 0.6, 30), (10, 0.9, 9), (100, 0.07, 7)]
)
def test_the_hidden_share_is_rounded_up(n, ratio, hidden):
    """196 - int(196 * 0.25) in MAE, ceil(49 * 0.6) in SimMIM."""
    assert number_hidden(n, ratio) == hidden


@pytest.mark.parametrize(("n", "ratio"), [(16, 0.0), (16, 1.0), (16, -0.1), (16, float("nan")), (4, 0.8)])
def test_a_share_that_hides_nothing_or_all_is_refused(n, ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        number_hidden(n, ratio)


def test_the_order_is_a_permutation_of_its_row_of_numbers():
    u = torch.rand(3, 16)
    order = shuffled(u, 4)
    for numbers, places in zip(u.tolist(), order.tolist(), strict=True):
        assert places == sorted(range(16), key=numbers.__getitem__)


def test_the_patches_of_a_square_stay_together():
    order = shuffled(torch.tensor([[0.9, 0.1, 0.5, 0.3]]), side=4, unit=2)
    squares = [{0, 1, 4, 5}, {2, 3, 6, 7}, {8, 9, 12, 13}, {10, 11, 14, 15}]  # by hand, of a 4 x 4 grid
    assert [set(four) for four in order.view(4, 4).tolist()] == [squares[i] for i in (1, 3, 2, 0)]


@pytest.mark.parametrize(("dim", "side"), [(16, 3), (768, 14)])
def test_positions_are_those_of_mae(dim, side):
    expected = get_2d_sincos_pos_embed(dim, side, cls_token=True)
    torch.testing.assert_close(sincos_positions(dim, side)[0], torch.from_numpy(expected).float(), atol=1e-6, rtol=0)


def test_a_position_by_hand():
    """Column 2, row 1, and dim 8: frequencies 1 and 1/100."""
    w, h = torch.tensor([2, 0.02]), torch.tensor([1, 0.01])
    expected = torch.cat([w.sin(), w.cos(), h.sin(), h.cos()])
    torch.testing.assert_close(sincos_positions(8, 3)[0, 1 + 3 * 1 + 2], expected)


def test_a_width_without_four_parts_is_refused():
    with pytest.raises(ValueError, match="multiple of 4, got 18"):
        sincos_positions(18, 3)
