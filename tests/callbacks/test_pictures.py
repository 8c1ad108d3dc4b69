from types import SimpleNamespace
from unittest.mock import MagicMock, create_autospec

import pytest
import torch
from lightning.pytorch.loggers import CometLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch.utils.data import DataLoader

from callbacks.pictures import Column, PretextPictures, draw_columns, save_picture
from tests.callbacks.tiny import TWO_PROCESSES, TinyData, TinyModel, trainer


class Drawing(TinyModel):
    """Says how bright it finds an image, and draws a random number where it should not."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(8)
        self.seen = []

    def forward(self, x):
        return self.norm(super().forward(x))

    def pictures(self, batch):
        assert not torch.is_grad_enabled()
        assert not self.norm.training
        self.seen.append(batch.index.tolist())
        torch.rand(1)  # from the generators of the training
        image = batch.image.float() / 255
        said = [f"{value:.1f}" for value in self(image).sum(1).tolist()]
        return [Column("image", batch.image, right=batch.label == 0), Column("said", image, said)]


def names(folder):
    return {path.name for path in (folder / "pictures").iterdir()}


def test_pictures_are_drawn_in_the_epochs_asked_for_and_by_test(tmp_path):
    model, run = Drawing(), trainer(tmp_path, PretextPictures(every_n_epochs=2, rows=3), max_epochs=4)
    run.fit(model, TinyData())
    assert names(tmp_path) == {"pretext-val-epoch0001.png", "pretext-val-epoch0003.png"}
    run.test(model, TinyData(), verbose=False)
    assert "pretext-test.png" in names(tmp_path)
    assert model.seen == [[0, 11, 22]] * 3  # the same held-out images, from the first to the last
    assert imread(tmp_path / "pictures" / "pretext-test.png").shape == (500, 300, 4)


def test_without_held_out_images_training_images_are_drawn(tmp_path):
    class Unlabelled(TinyData):
        def val_dataloader(self):
            return []

    model = Drawing()
    run = trainer(tmp_path, PretextPictures(every_n_epochs=2, rows=2), limit_val_batches=0)
    run.fit(model, Unlabelled())
    assert names(tmp_path) == {"pretext-train-epoch0001.png"}
    assert model.seen == [[0, 60]]
    assert model.training
    assert model.norm.training


@pytest.mark.parametrize("limit", [{}, {"limit_val_batches": 0}])
def test_drawing_changes_neither_weights_nor_random_numbers(tmp_path, limit):
    states = []
    for callbacks in ((), (PretextPictures(every_n_epochs=1),)):
        torch.manual_seed(0)
        model = Drawing()
        trainer(tmp_path, *callbacks, **limit).fit(model, TinyData())
        states.append([*model.state_dict().values(), torch.rand(2)])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_two_processes_draw_what_one_draws(tmp_path):
    drawn = []
    for name, settings in {"one": {}, "two": TWO_PROCESSES}.items():
        torch.manual_seed(1)
        trainer(tmp_path / name, PretextPictures(), **settings).validate(Drawing(), TinyData(), verbose=False)
        drawn.append(imread(tmp_path / name / "pictures" / "pretext-val.png"))
    assert (drawn[0] == drawn[1]).all()


@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"max_epochs": 1, "num_sanity_val_steps": 2}])
def test_nothing_is_drawn_of_a_trial(tmp_path, settings):
    run = trainer(tmp_path, PretextPictures(every_n_epochs=3), **settings)
    run.fit(Drawing(), TinyData())
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("channels", [1, 2, 3, 13])
def test_any_number_of_channels_is_drawn(channels):
    x = torch.rand(2, channels, 4, 4)
    figure = draw_columns([Column("a", x), Column("b", x.bfloat16(), right=torch.tensor([True, False]))])
    assert len(figure.axes) == 4
    assert [c.get_edgecolor() for c in figure.axes[1].spines.values()] != [
        c.get_edgecolor() for c in figure.axes[3].spines.values()
    ]


def test_a_pixel_keeps_its_colour():
    x = torch.tensor([0.2, 0.6, 1.0]).view(1, 3, 1, 1)
    figure = draw_columns([Column("float", x), Column("uint8", (255 * x).to(torch.uint8))])
    for axes in figure.axes:
        assert axes.images[0].get_array().tolist() == [[[51, 153, 255]]]


def test_a_method_that_draws_nothing_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"write pictures\(batch\) for TinyModel, or leave the callback out"):
        trainer(tmp_path, PretextPictures()).fit(TinyModel(), TinyData())


def test_another_loader_is_an_error(tmp_path):
    class Foreign(TinyData):
        def val_dataloader(self):
            return DataLoader(self.sets[1], batch_size=None, sampler=[[0], [1]])

    with pytest.raises(ValueError, match=r"datamodules\.loader\.Loader, and the data have a DataLoader"):
        trainer(tmp_path, PretextPictures()).validate(Drawing(), Foreign(), verbose=False)


@pytest.mark.parametrize("arguments", [{"every_n_epochs": -1}, {"rows": 0}])
def test_arguments_out_of_range_are_errors(arguments):
    with pytest.raises(ValueError, match="every_n_epochs must be 0 or more and rows 1 or more"):
        PretextPictures(**arguments)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (TensorBoardLogger, "experiment.add_figure"),
        (WandbLogger, "log_image"),
        (MLFlowLogger, "experiment.log_artifact"),
        (CometLogger, "experiment.log_image"),
    ],
)
def test_loggers_of_pictures_get_the_file(kind, call, tmp_path):
    logger = create_autospec(kind, instance=True, experiment=MagicMock())
    run = SimpleNamespace(
        state=SimpleNamespace(fn=None), testing=True, default_root_dir=tmp_path, loggers=[logger], global_step=7
    )
    path = save_picture(run, "neighbours", Figure())
    assert path.exists()
    assert [str(made).split("(")[0] for made in logger.mock_calls if call.split("(")[0] in str(made)]
    if kind is not TensorBoardLogger:
        assert str(path) in str(logger.mock_calls)
