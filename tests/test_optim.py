import pytest
import torch
from torch import nn

from ssl_lightning.optim import LARS, optimizer_class, param_groups


def lars_loop(w, grads, lr, momentum, weight_decay, eta, adapt):
    """The equations of the docstring, one tensor at a time, in float64."""
    v = torch.zeros_like(w)
    for g in grads:
        u = g + weight_decay * w
        if adapt and w.norm() > 0 and u.norm() > 0:
            u = eta * w.norm() / u.norm() * u
        v = momentum * v + u
        w = w - lr * v
    return w


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_equals_its_equations(adapt, weight_decay):
    torch.manual_seed(0)
    start = [torch.randn(4, 3, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)]
    grads = [[torch.randn_like(w) for _ in range(4)] for w in start]
    params = [nn.Parameter(w.clone()) for w in start]
    optimizer = LARS([{"params": params, "adapt": adapt}], lr=0.5, weight_decay=weight_decay, eta=0.02)
    for step in range(4):
        for p, g in zip(params, grads, strict=True):
            p.grad = g[step].clone()
        optimizer.step()
    for p, w, g in zip(params, start, grads, strict=True):
        torch.testing.assert_close(p.detach(), lars_loop(w, g, 0.5, 0.9, weight_decay, 0.02, adapt))


@pytest.mark.parametrize("name", ["LARS", "LAMB"])
def test_they_go_on_from_their_state_dicts(name):
    torch.manual_seed(0)
    grads = torch.randn(4, 6)
    whole, first, second = (nn.Parameter(torch.ones(6)) for _ in range(3))
    steps = {id(p): optimizer_class(name)([p], lr=0.1) for p in (whole, first, second)}

    def run(p, rows):
        for g in rows:
            p.grad = g.clone()
            steps[id(p)].step()

    run(whole, grads)
    run(first, grads[:2])
    second.data.copy_(first.data)
    steps[id(second)].load_state_dict(steps[id(first)].state_dict())
    run(second, grads[2:])
    assert torch.equal(whole, second)


def lamb_loop(w, grads, lr, weight_decay, correct):
    """Algorithm 2 of the paper, one tensor at a time, in float64; the norms are their own trust."""
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        r = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-6) if correct else m / (v.sqrt() + 1e-6)
        u = r + weight_decay * w
        w = w - lr * (w.norm() / u.norm() if weight_decay and w.norm() > 0 else 1) * u
    return w


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_equals_its_equations(weight_decay, correct):
    torch.manual_seed(0)
    start = [torch.randn(4, 3, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)]
    grads = [[torch.randn_like(w) for _ in range(4)] for w in start]
    params = [nn.Parameter(w.clone()) for w in start]
    settings = {"bias_correction": correct, "max_grad_norm": None}
    optimizer = optimizer_class("LAMB")(params, lr=0.5, weight_decay=weight_decay, **settings)
    assert optimizer_class("LAMB")(params).defaults["bias_correction"]
    for step in range(4):
        for p, g in zip(params, grads, strict=True):
            p.grad = g[step].clone()
        optimizer.step()
    for p, w, g in zip(params, start, grads, strict=True):
        torch.testing.assert_close(p.detach(), lamb_loop(w, g, 0.5, weight_decay, correct))


def test_vectors_are_neither_decayed_nor_adapted():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    matrices, vectors = param_groups(net, 0.1, decay_norm_and_bias=False)
    assert [p.ndim for p in matrices["params"]] == [2]
    assert matrices["weight_decay"] == 0.1
    assert [p.ndim for p in vectors["params"]] == [1, 1, 1]
    assert vectors["weight_decay"] == 0
    assert vectors["adapt"] is False
    assert len(param_groups(net, 0.1, decay_norm_and_bias=True)[0]["params"]) == 4


def test_parameters_of_one_rate_share_a_group_and_the_full_rate_comes_first():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    groups = param_groups(net, 0.1, False, lambda name: 1.0 if name.startswith("2.") else 0.5)
    found = [(g["lr_scale"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups]
    assert found == [(1, 0.1, [(2, 4)]), (1, 0, [(2,)]), (0.5, 0.1, [(4, 3)]), (0.5, 0, [(4,), (4,), (4,)])]


@pytest.mark.parametrize("name", ["SGD", "AdamW", "LARS", "LAMB", "torch.optim.RMSprop", "ssl_lightning.optim.LARS"])
def test_an_optimizer_is_found_by_name(name):
    groups = param_groups(nn.Linear(2, 2), 0.1, decay_norm_and_bias=False)
    optimizer_class(name)(groups, lr=0.1)  # every optimizer takes our groups


@pytest.mark.parametrize(("name", "words"), [("AdmaW", "Did you mean AdamW"), ("no_such.SGD", "no_such")])
def test_an_unknown_optimizer_is_named(name, words):
    with pytest.raises(ValueError, match=words):
        optimizer_class(name)
