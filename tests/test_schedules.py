import math

import pytest

from ssl_lightning.schedules import lr_factor, scaled_lr


def test_the_rate_follows_the_batch():
    assert scaled_lr(0.3, "linear", 4096, 256) == pytest.approx(4.8)
    assert scaled_lr(0.3, "sqrt", 1024, 256) == pytest.approx(0.6)
    assert scaled_lr(0.3, "none", 4096, 256) == 0.3


def test_warm_up_rises_in_a_line_and_ends_at_the_base_rate():
    assert [lr_factor(s, 100, 4, "cosine") for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_cosine_passes_through_its_middle_and_ends_at_final():
    assert lr_factor(55, 100, 10, "cosine") == pytest.approx(0.5)
    assert lr_factor(100, 100, 10, "cosine", final=0.1) == pytest.approx(0.1)
    assert lr_factor(99, 100, 0, "cosine") == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)


def test_linear_step_and_constant():
    assert lr_factor(50, 100, 0, "linear") == pytest.approx(0.5)
    steps = [lr_factor(s, 200, 0, "step", (0.6, 0.8)) for s in (0, 119, 120, 159, 160, 199)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])  # MoCo: 120 and 160 of 200 epochs
    assert lr_factor(99, 100, 0, "constant") == 1
