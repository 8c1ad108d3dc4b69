"""The moving average of the weights, which is what is evaluated and kept."""

import copy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.momentum import refuse_low_precision


class WeightEMA(Callback):
    """After each optimizer step ``average = decay average + (1 - decay) weights``; the average is evaluated and kept.

    Validation inside of ``fit`` measures it, and it is the ``state_dict`` of the checkpoint, so that ``test``,
    ``export`` and a probe take it; the weights that training goes on with lie beside it. Buffers, such as the
    statistics of batch norm, are averaged too, whole numbers copied. It changes nothing in the training, and has
    nothing to do with the teacher of a method such as MoCo.

    Lightning's EMAWeightAveraging keeps the average on the CPU, to which it sends all weights in every step, and puts
    them back into the network before the callbacks that look at it at the end of an evaluation.

    Args:
        decay: In [0, 1): 0.999 looks back over some thousand steps.

    Raises:
        ValueError: decay out of its range, or (when training starts) weights of 16 bits, where small steps are lost.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.inside: dict[str, Tensor] = {}  # the network's own tensors: the weights, and in an evaluation the average
        self.beside: dict[str, Tensor] = {}  # the average, and in an evaluation the weights
        self.pairs: list[tuple[Tensor, Tensor]] = []  # of both, each once where tensors share their memory
        self.evaluating = False
        self.loaded: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_low_precision(pl_module.parameters())
        self.inside = pl_module.state_dict()  # of a run that goes on: the average, as the checkpoint has it
        unique = {(tensor.data_ptr(), tensor.shape): (tensor, tensor.clone()) for tensor in self.inside.values()}
        self.beside = copy.copy(self.inside)  # with the versions of the modules
        self.beside.update((name, unique[tensor.data_ptr(), tensor.shape][1]) for name, tensor in self.inside.items())
        self.pairs = list(unique.values())
        if self.loaded:
            pl_module.load_state_dict(self.loaded)
            self.loaded = {}
        weights, averages = zip(*(pair for pair in self.pairs if pair[0].is_floating_point()), strict=True)
        whole = [pair for pair in self.pairs if not pair[0].is_floating_point()]

        @torch.no_grad()
        def update(*_: Any) -> None:
            torch._foreach_lerp_(averages, weights, 1 - self.decay)
            if whole:
                torch._foreach_copy_([copied for _, copied in whole], [number for number, _ in whole])

        trainer.optimizers[0].register_step_post_hook(update)

    @torch.no_grad()
    def swap(self) -> None:
        for inside, beside in self.pairs:
            kept = inside.clone()
            inside.copy_(beside)
            beside.copy_(kept)
        self.evaluating = not self.evaluating

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.pairs:  # else it is the sanity check, or not in a fit
            self.swap()

    on_validation_end = on_validation_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.swap()  # for what comes after the fit
        self.inside, self.beside, self.pairs, self.evaluating = {}, {}, [], False

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.beside if self.evaluating else self.inside} if self.pairs else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = state_dict["weights"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.pairs:
            checkpoint["state_dict"] = self.inside if self.evaluating else self.beside
