"""Compiling what a training step runs."""

from collections.abc import Iterable
from typing import Literal, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn


@runtime_checkable
class NamesNetworks(Protocol):
    """A method that calls inner parts of its networks."""

    def networks(self) -> Iterable[nn.Module]:
        """What a training step calls."""


class Compile(Callback):
    """Compiles the networks of the method by ``torch.compile``.

    The first step then takes a minute or so. Names of weights, and so checkpoints, stay as they are. The views are not
    compiled: their shapes change with the draws, tracing them takes minutes, and on a CPU the result is no faster.

    Args:
        mode: ``default``, ``reduce-overhead`` (CUDA graphs) or ``max-autotune`` (tries kernels; minutes more).
    """

    def __init__(self, mode: Literal["default", "reduce-overhead", "max-autotune"] = "default") -> None:
        self.mode = mode

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for network in pl_module.networks() if isinstance(pl_module, NamesNetworks) else pl_module.children():
            network.compile(mode=self.mode)
