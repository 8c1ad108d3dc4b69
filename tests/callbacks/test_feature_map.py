import pytest
import torch
from matplotlib.image import imread
from torch.utils.data import DataLoader

from callbacks.feature_map import FeatureMap, images_of
from tests.callbacks.tiny import TWO_PROCESSES, TinyData, TinyModel, trainer


def pictures(folder):
    return {path.name: imread(path) for path in (folder / "pictures").iterdir()}


def test_pictures_are_drawn_in_the_epochs_asked_for_and_by_test(tmp_path):
    run = trainer(tmp_path, FeatureMap(points=20, rows=3, every_n_epochs=2))
    run.fit(TinyModel(), TinyData())
    assert set(pictures(tmp_path)) == {"feature_map-val-epoch0001.png", "neighbours-val-epoch0001.png"}
    run.test(TinyModel(), TinyData(), verbose=False)
    drawn = pictures(tmp_path)
    assert len(drawn) == 4
    assert drawn["feature_map-test.png"].shape == (800, 1000, 4)
    assert drawn["neighbours-test.png"].shape == (450, 1130, 4)


def test_two_processes_draw_what_one_draws(tmp_path):
    drawn = []
    for name, settings in {"one": {}, "two": TWO_PROCESSES}.items():
        torch.manual_seed(1)
        run = trainer(tmp_path / name, FeatureMap(points=20, rows=3), **settings)
        run.validate(TinyModel(), TinyData(), verbose=False)
        drawn.append(pictures(tmp_path / name)["neighbours-val.png"])
    assert (drawn[0] == drawn[1]).all()


def test_the_images_are_those_asked_for(tmp_path):
    class Check(FeatureMap):
        def on_features(self, trainer, pl_module, bank, query):
            index = torch.tensor([22, 0, 7, 7])
            found = images_of(pl_module, trainer.val_dataloaders[1], self.rows[1][""], index)
            assert torch.equal(found, trainer.datamodule.sets[1][index.tolist()].image)
            self.checked = True

    check = Check()
    trainer(tmp_path, check).validate(TinyModel(), TinyData(), verbose=False)
    assert check.checked


def test_drawing_leaves_the_random_numbers_alone(tmp_path):
    weights = []
    for callbacks in ((), (FeatureMap(points=20, rows=2, every_n_epochs=1),)):
        torch.manual_seed(0)
        model = TinyModel()
        trainer(tmp_path, *callbacks).fit(model, TinyData())
        weights.append(model.net.weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize(("classes", "channels"), [(30, 3), (2, 1), (2, 13)])
def test_many_classes_and_other_channels_are_drawn(tmp_path, classes, channels):
    data = TinyData(classes=classes, queries=61)
    for images in data.sets:
        images.images = images.images[:, :1].repeat(channels, axis=1)
    model = TinyModel()
    model.net = torch.nn.Linear(16 * channels, 8)
    trainer(tmp_path, FeatureMap(points=40, rows=2)).test(model, data, verbose=False)
    assert len(pictures(tmp_path)) == 2


def test_another_loader_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"reads images again with datamodules\.loader\.Loader"):
        images_of(TinyModel(), DataLoader(torch.arange(3)), [], torch.tensor([0]))


@pytest.mark.parametrize("arguments", [{"points": 3}, {"rows": 0}])
def test_arguments_out_of_range_are_errors(arguments):
    with pytest.raises(ValueError, match="points must be 4 or more"):
        FeatureMap(**arguments)
