import copy
import math

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from callbacks.momentum import MomentumUpdate


class Tiny(LightningModule):
    def __init__(self, base=0.9, final=None, schedule_total=None):
        super().__init__()
        self.student = nn.Linear(4, 4)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.base, self.final = base, final
        self.students, self.teachers = [], []

    def configure_callbacks(self):
        self.update = MomentumUpdate([(self.student, self.teacher)], self.base, self.final)
        return [self.update]

    def training_step(self, batch, batch_idx):
        self.teachers.append(self.teacher.weight.clone())
        self.students.append(self.student.weight.detach().clone())
        return self.student(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.student(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.student.parameters(), lr=0.1)


def fit(model, folder, **changes):
    settings = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    trainer = Trainer(**settings, **quiet, **changes)
    loader = DataLoader(torch.ones(8, 4), batch_size=1)
    trainer.fit(model, loader, DataLoader(torch.ones(2, 4)))
    return trainer


def test_the_teacher_follows_its_equation(tmp_path):
    model = Tiny(base=0.9)
    fit(model, tmp_path)
    for t in range(7):
        expected = 0.9 * model.teachers[t] + 0.1 * model.students[t + 1]
        torch.testing.assert_close(model.teachers[t + 1], expected)
    torch.testing.assert_close(model.teacher.weight, 0.9 * model.teachers[7] + 0.1 * model.student.weight.detach())


def test_one_update_for_an_optimizer_step_of_several_batches(tmp_path):
    model = Tiny()
    trainer = fit(model, tmp_path, accumulate_grad_batches=4)
    assert trainer.global_step == 2
    assert model.update.steps == 2
    assert torch.equal(model.teachers[0], model.teachers[3])
    assert not torch.equal(model.teachers[3], model.teachers[4])


def test_momentum_rises_along_half_a_cosine():
    update = MomentumUpdate([], 0.99, 1.0)
    assert update.momentum(100) == pytest.approx(0.99)
    update.steps = 50
    assert update.momentum(100) == pytest.approx(0.995)
    update.steps = 25
    assert update.momentum(100) == pytest.approx(1 - 0.01 * (math.cos(math.pi / 4) + 1) / 2)
    update.steps = 100
    assert update.momentum(100) == pytest.approx(1.0)


def test_a_momentum_out_of_range_is_an_error():
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\].* got 1.5"):
        MomentumUpdate([], 1.5)


def test_low_precision_teachers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="bf16-mixed"):
        fit(Tiny(), tmp_path, precision="bf16-true")
