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


def test_lars_goes_on_from_its_state_dict():
    torch.manual_seed(0)
    grads = torch.randn(4, 6)
    whole, first, second = (nn.Parameter(torch.ones(6)) for _ in range(3))
    steps = {
        id(whole): LARS([whole], lr=1.0),
        id(first): LARS([first], lr=1.0),
        id(second): LARS([second], lr=1.0),
    }

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


@pytest.mark.parametrize("name", ["SGD", "AdamW", "LARS", "torch.optim.RMSprop", "ssl_lightning.optim.LARS"])
def test_an_optimizer_is_found_by_name(name):
    groups = param_groups(nn.Linear(2, 2), 0.1, decay_norm_and_bias=False)
    optimizer_class(name)(groups, lr=0.1)  # every optimizer takes our groups


@pytest.mark.parametrize(("name", "words"), [("AdmaW", "Did you mean AdamW"), ("no_such.SGD", "no_such")])
def test_an_unknown_optimizer_is_named(name, words):
    with pytest.raises(ValueError, match=words):
        optimizer_class(name)
