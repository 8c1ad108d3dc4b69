"""The closed form against the regression that it solves."""

import pytest
import torch
from torch.autograd import gradcheck

from ssl_lightning.correlation_filter import centred, fit, gaussian, peak, respond


def shifts(x):
    """All cyclic shifts of a map (C, H, W), one a row: (H W, C H W)."""
    _, height, width = x.shape
    return torch.stack([x.roll((-i, -j), (1, 2)).flatten() for i in range(height) for j in range(width)])


def ridge(template, search, label, reg):
    """Weights by the normal equations in the spatial domain, applied at every shift of the search map."""
    rows = shifts(template)
    gram = rows.T @ rows / template.numel() + reg * torch.eye(rows.shape[1], dtype=rows.dtype)
    weights = torch.linalg.solve(gram, rows.T @ label.flatten() / template.numel())
    return (shifts(search) @ weights).view_as(label)


@pytest.mark.parametrize(("height", "width"), [(5, 5), (4, 6), (5, 4)])
def test_filter_is_ridge_regression_over_all_shifts(height, width):
    template, search = torch.randn(2, 1, 3, height, width, dtype=torch.float64)
    label = torch.rand(1, height, width, dtype=torch.float64)
    answer = respond(fit(template, label, 0.1), search)
    torch.testing.assert_close(answer[0], ridge(template[0], search[0], label[0], 0.1))


def test_the_other_factor_conjugated_is_not():
    """A negative control: the test above tells the two apart."""
    template, search = torch.randn(2, 1, 3, 5, 5, dtype=torch.float64)
    label = torch.rand(1, 5, 5, dtype=torch.float64)
    right = fit(template, label, 0.1)
    wrong = respond(right._replace(template=right.template.conj()), search)
    assert (wrong[0] - ridge(template[0], search[0], label[0], 0.1)).abs().max() > 0.01


def test_the_label_moves_as_the_content_does():
    template = torch.randn(2, 4, 9, 12)
    label = gaussian(9, 12, 1.0, torch.zeros(2, 2))
    answer = respond(fit(template, label, 1e-6), template.roll((3, -5), (2, 3)))
    assert peak(answer).tolist() == [[3, -5]] * 2
    torch.testing.assert_close(answer, label.roll((3, -5), (1, 2)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("first", [(7, -11), (0, 3)])
def test_forwards_and_backwards_on_pure_translations_returns_to_the_start(first):
    second = (-4, 9)
    t = torch.randn(1, 8, 31, 30)
    s1, s2 = t.roll(first, (2, 3)), t.roll(second, (2, 3))
    label = gaussian(31, 30, 2.0, torch.zeros(1, 2))

    def answer(template, search, wanted):
        return respond(fit(template, wanted, 1e-6), search)

    y1 = gaussian(31, 30, 2.0, peak(answer(t, s1, label)))
    y2 = gaussian(31, 30, 2.0, peak(answer(s1, s2, y1)))
    assert peak(y1).tolist() == [list(first)]
    assert peak(y2).tolist() == [list(second)]  # of S2, whatever way it was reached
    back = answer(s2, t, y2)
    assert peak(back).tolist() == [[0, 0]]
    assert (back - label).square().sum() < 1e-3 * label.square().sum()


def test_gaussian_is_the_product_of_wrapped_ones():
    label = gaussian(5, 4, 1.5, torch.tensor([[4, -1], [0, 0]]))
    for b, (row, column) in enumerate([(4, -1), (0, 0)]):
        for i in range(5):
            for j in range(4):
                di = min((i - row) % 5, (row - i) % 5)
                dj = min((j - column) % 4, (column - j) % 4)
                expected = torch.tensor(-(di**2 + dj**2) / (2 * 1.5**2)).exp()
                torch.testing.assert_close(label[b, i, j], expected)


def test_an_answer_of_zero_scores_the_energy_of_the_label():
    """pi sigma^2: 54.5 at the paper's 121 cells."""
    label = gaussian(121, 121, 125 / 30, torch.zeros(1, 2))
    assert label.square().sum() == pytest.approx(54.54, abs=0.01)


def test_gradient_of_template_and_search():
    template, search = (torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    label = torch.rand(2, 5, 4, dtype=torch.float64)
    assert gradcheck(lambda z, x: respond(fit(z, label, 0.1), x), (template, search))


def test_it_is_float32_under_autocast_and_for_bfloat16():
    maps = torch.randn(1, 2, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = respond(fit(maps, torch.ones(1, 5, 5), 0.1), maps)
    assert answer.dtype == torch.float32
    assert respond(fit(maps.bfloat16(), torch.ones(1, 5, 5), 0.1), maps.bfloat16()).dtype == torch.float32


def test_places_are_counted_from_the_origin_both_ways():
    assert centred(torch.arange(5), 5).tolist() == [0, 1, 2, -2, -1]
    assert centred(torch.arange(4), 4).tolist() == [0, 1, -2, -1]
