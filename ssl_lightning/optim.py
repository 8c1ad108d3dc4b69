"""Optimizers by name, their parameter groups, and LARS."""

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim import Lamb
from torch import Tensor, nn
from torch.optim import Optimizer


class LARS(Optimizer):
    """SGD with momentum whose step in each layer is proportional to the norm of the layer's weights.

    You et al., Large Batch Training of Convolutional Networks, 2017, https://arxiv.org/abs/1708.03888.
    As MoCo v3 and BYOL use it: ``u = g + wd w``, ``v = momentum v + eta |w| / |u| u``, ``w = w - lr v``.
    Parameters of groups with ``adapt=False`` (biases, norms) take the plain momentum step.

    lightly's LARS is not used: it adapts only where the weight decay is not 0, takes |g| + wd |w| for |g + wd w|,
    and synchronises with the host twice a parameter; this one makes a few foreach calls and none.

    Args:
        params: Parameters or groups; a group may set ``adapt``.
        lr: Learning rate.
        momentum: In [0, 1).
        weight_decay: L2 penalty, added to the gradient before the norm is taken.
        eta: Trust coefficient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            update = torch._foreach_add(grads, params, alpha=group["weight_decay"])
            if group["adapt"]:
                w = torch.stack(torch._foreach_norm(params))  # (number of tensors,)
                u = torch.stack(torch._foreach_norm(update))
                trust = torch.where((w > 0) & (u > 0), group["eta"] * w / u, 1.0)
                torch._foreach_mul_(update, list(trust.unbind()))
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            velocity = [self.state[p]["momentum"] for p in params]
            torch._foreach_mul_(velocity, group["momentum"])
            torch._foreach_add_(velocity, update)
            torch._foreach_add_(params, velocity, alpha=-group["lr"])
        return loss


FURTHER: dict[str, type[Optimizer]] = {"LARS": LARS, "LAMB": Lamb}  # which torch.optim has not


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of an optimizer: a name of torch.optim, ``LARS``, ``LAMB`` or a dotted path of your own.

    ``LAMB`` is timm's: You et al. 2019, https://arxiv.org/abs/1904.00962, with bias correction; it clips the gradient
    to a norm of 1 (``max_grad_norm``), and adapts the step of parameters that are decayed (``always_adapt``: of all).

    Raises:
        ValueError: no such optimizer.
    """
    if name in FURTHER:
        return FURTHER[name]
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "torch.optim"), attribute, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"optimizer {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        known = [
            *FURTHER,
            *(n for n, c in vars(torch.optim).items() if isinstance(c, type) and n != "Optimizer"),
        ]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown optimizer {name!r}.{hint} Known: {', '.join(sorted(known))}, or a dotted path")
    return found


def param_groups(
    module: nn.Module,
    weight_decay: float,
    decay_norm_and_bias: bool,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters in groups, those with the largest ``lr_scale`` first.

    Args:
        module: Whose parameters.
        weight_decay: Of every group but that of biases and norms.
        decay_norm_and_bias: Whether they are decayed as well; else they have groups of their own, without adaptation.
        lr_scale: Share of the learning rate of a parameter, by its name.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            groups.setdefault((lr_scale(name), not decay_norm_and_bias and p.ndim <= 1), []).append(p)
    plain = {False: {"weight_decay": weight_decay}, True: {"weight_decay": 0.0, "adapt": False}}
    order = sorted(groups, key=lambda key: (-key[0], key[1]))
    return [{"params": groups[key], "lr_scale": key[0], **plain[key[1]]} for key in order]
