import itertools
import math

import pytest
from lightning.pytorch import Callback

from ssl_lightning.methods import SimCLR
from ssl_lightning.schedules import lr_factor, scaled_lr
from tests.methods.tiny import data, make, trainer


def test_the_rate_follows_the_batch():
    assert scaled_lr(0.3, "linear", 4096, 256) == pytest.approx(4.8)
    assert scaled_lr(0.3, "sqrt", 1024, 256) == pytest.approx(0.6)
    assert scaled_lr(0.3, "none", 4096, 256) == 0.3


def test_warm_up_rises_in_a_line_and_ends_at_the_base_rate():
    assert [lr_factor(s, 100, 4, "cosine") for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_cosine_passes_through_its_middle_and_ends_at_zero():
    assert lr_factor(55, 100, 10, "cosine") == pytest.approx(0.5)
    assert lr_factor(100, 100, 10, "cosine") == pytest.approx(0)
    assert lr_factor(99, 100, 0, "cosine") == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)


def test_inverse_sqrt_is_the_transformer_s():
    rates = [lr_factor(s, math.inf, 4000, "inverse_sqrt") * (512 * 4000) ** -0.5 for s in range(20_000)]
    assert rates == pytest.approx([512**-0.5 * min(n**-0.5, n * 4000**-1.5) for n in range(1, 20_001)])
    assert max(rates) == pytest.approx(7.0e-4, rel=0.01)
    assert [lr_factor(s, 10, 0, "inverse_sqrt") for s in (0, 3)] == [1, 0.5]


def test_exponential_falls_by_equal_ratios():
    rates = [lr_factor(s, 50, 0, "exponential", step_factor=1e-3) for s in range(51)]
    assert rates[0] == 1
    assert rates[50] == pytest.approx(1e-3)
    assert [b / a for a, b in itertools.pairwise(rates)] == pytest.approx([10 ** (-3 / 50)] * 50)


def test_linear_step_and_constant():
    assert lr_factor(50, 100, 0, "linear") == pytest.approx(0.5)
    steps = [lr_factor(s, 200, 0, "step", (0.6, 0.8)) for s in (0, 119, 120, 159, 160, 199)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])  # MoCo: 120 and 160 of 200 epochs
    assert lr_factor(99, 100, 0, "constant") == 1


@pytest.mark.parametrize(
    ("batches", "accumulate", "interval", "warmup", "expected"),
    [
        (4, 1, "step", 0.5, [0.05, 0.1, 0.1, None]),  # half an epoch of 4 steps
        (5, 4, "step", 1, [0.05, 0.1, 0.1, None]),  # the rest of an epoch is a step too
        (4, 1, "epoch", 0.5, [0.05, 0.1, 0.1, 0.1, None]),  # the rate does not fall back into the warm-up
    ],
)
def test_warm_up_in_a_run(tmp_path, batches, accumulate, interval, warmup, expected):
    class Rates(Callback):
        def __init__(self):
            self.rates = []

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.rates.append(optimizer.param_groups[0]["lr"])

    rates = Rates()
    run = trainer(tmp_path, rates, max_epochs=4, limit_train_batches=batches, accumulate_grad_batches=accumulate)
    model = make(SimCLR, lr=0.1, lr_rule="none", optimizer="SGD", warmup_epochs=warmup, schedule_interval=interval)
    run.fit(model, data())
    for rate, value in zip(rates.rates, expected, strict=False):
        assert rate < 0.1 if value is None else rate == pytest.approx(value)


def test_a_run_that_ends_in_its_warm_up_says_so(tmp_path, caplog):
    with caplog.at_level("INFO"):
        trainer(tmp_path, max_steps=2).fit(
            make(SimCLR, lr=0.1, lr_rule="none", warmup_steps=8, warmup_epochs=0), data()
        )
    assert any(
        line.endswith("2 optimizer steps, all in the warm-up of 8: it gets to 0.025") for line in caplog.messages
    )


def test_the_factor_of_a_step_can_be_chosen():
    steps = [lr_factor(s, 100, 0, "step", (0.3, 0.6), 0.2) for s in (29, 30, 60)]
    assert steps == pytest.approx([1, 0.2, 0.04])
