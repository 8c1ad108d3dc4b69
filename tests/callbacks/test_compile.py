"""Compiled and eager runs are the same run."""

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from callbacks.compile import Compile
from ssl_lightning.methods import MAE, SimCLR
from tests.methods.tiny import data, make, trainer


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *args):
        self.values.append(outputs["loss"].item())


@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_a_compiled_run_is_the_eager_run_under_the_same_names(tmp_path, monkeypatch):
    def trace(module, mode):  # without the minute that generating code takes
        module._compiled_call_impl = torch.compile(module._call_impl, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", trace)
    losses, names, compiled = {}, {}, {}
    for kind, callbacks in {"eager": [], "compiled": [Compile()]}.items():
        model, seen = make(SimCLR), Losses()
        run = data()
        trainer(tmp_path / kind, seen, *callbacks, max_steps=2).fit(model, run)
        losses[kind], names[kind] = seen.values, list(model.state_dict())
        compiled[kind] = model.backbone._compiled_call_impl is not None
    assert compiled == {"eager": False, "compiled": True}
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-4)
    assert names["compiled"] == names["eager"]
    torch.compiler.reset()


def test_the_parts_that_a_method_names_are_compiled(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **kwargs: compiled.append(module))
    model = make(MAE)
    trainer(tmp_path, Compile(), max_steps=1).fit(model, data(MAE))
    assert {model.decoder, model.backbone.net.patch_embed, model.backbone.net.blocks} <= set(compiled)
