import numpy as np
import pytest
import torch

from callbacks.predictions import PredictionsFile
from tests.callbacks.tiny import TWO_PROCESSES, TinyData, TinyModel, trainer


def predicted(folder, **settings):
    torch.manual_seed(1)
    model, data = TinyModel(), TinyData()
    trainer(folder, PredictionsFile(), **settings).predict(model, data, return_predictions=False)
    with np.load(folder / "features.npz") as file:
        return model, data, dict(file)


def test_the_file_holds_every_image_once(tmp_path):
    model, data, arrays = predicted(tmp_path)
    image = data.sets[1][list(range(23))].image
    np.testing.assert_allclose(arrays["features"], model(image.float() / 255).detach(), rtol=1e-5, atol=1e-6)
    assert arrays["features"].dtype == np.float32
    assert arrays["label"].tolist() == data.sets[1].labels.tolist()
    assert arrays["index"].tolist() == list(range(23))
    assert arrays["name"].tolist() == [f"{i}.png" for i in range(23)]


def test_two_processes_write_what_one_writes(tmp_path):
    _, _, one = predicted(tmp_path / "one")
    _, _, two = predicted(tmp_path / "two", **TWO_PROCESSES)
    assert one.keys() == two.keys()
    np.testing.assert_allclose(one.pop("features"), two.pop("features"), rtol=1e-6, atol=1e-6)
    assert all((one[name] == two[name]).all() for name in one)


def test_several_layers_are_an_error(tmp_path):
    class Layers(TinyModel):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return {"first": self(batch.image.float()), "last": self(batch.image.float())}

    with pytest.raises(ValueError, match="features of one layer, got first, last"):
        trainer(tmp_path, PredictionsFile()).predict(Layers(), TinyData(), return_predictions=False)


def test_several_loaders_are_an_error(tmp_path):
    class Several(TinyData):
        def predict_dataloader(self):
            return self.val_dataloader()

    with pytest.raises(ValueError, match="one loader"):
        trainer(tmp_path, PredictionsFile()).predict(TinyModel(), Several(), return_predictions=False)
