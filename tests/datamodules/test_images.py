import numpy as np
import pytest
import torch

from datamodules.digits import Digits
from datamodules.images import Splits
from datamodules.sets import ImageArray, Part
from datamodules.views import CropFlipViews, SimCLRViews
from tests.datamodules.recorder import Numbers, Recorder, Unlabelled, numbers, quiet_trainer


def set_up(data):
    data.prepare_data()
    data.setup("test")
    return data


def indices(loader):
    return [i for batch in loader for i in batch.index.tolist()]


def test_training_batches_carry_the_recipes_views():
    model, recipe = Recorder(), SimCLRViews()
    data = Digits(batch_size=16, views=recipe, seed=3)
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    batch = model.batch
    assert batch.image.dtype == torch.uint8
    assert [view.shape for view in batch.views] == [(16, 3, 32, 32)] * 2
    assert all(view.dtype == torch.float32 and 0 <= view.min() <= view.max() <= 1 for view in batch.views)
    expected = recipe(batch.image, batch.index, 32, 3, 0)
    assert all(torch.equal(a, b) for a, b in zip(batch.views, expected, strict=True))
    assert not torch.equal(*batch.views)


def test_views_differ_from_epoch_to_epoch():
    model, recipe = Recorder(), SimCLRViews()
    data = Digits(batch_size=1437, views=recipe, seed=3)
    quiet_trainer(max_epochs=2, limit_val_batches=0, log_every_n_steps=1).fit(model, datamodule=data)
    image, _, index, views = model.batch
    assert torch.equal(views[0], recipe(image, index, 32, 3, 1)[0])
    assert not torch.equal(views[0], recipe(image, index, 32, 3, 0)[0])


def test_evaluation_batches_carry_the_image_itself_in_the_sanity_check_and_in_fit():
    model = Recorder()
    quiet_trainer(max_epochs=1).fit(model, datamodule=Numbers(batch_size=8))
    (view,) = model.batch.views
    assert torch.allclose(view, model.batch.image / 255)
    assert [loader for loader, _ in model.evaluated[:3]] == [
        0,
        0,
        1,
    ]  # sanity check: 2 batches of the bank, 1 of 1


def test_views_default_to_what_the_method_proposes():
    model = Recorder(CropFlipViews(3))
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=Numbers(batch_size=8))
    assert len(model.batch.views) == 3


def test_a_wrong_number_of_views_is_an_error_that_names_both():
    data = Numbers(batch_size=8, views=CropFlipViews(3))
    with pytest.raises(ValueError, match=r"CropFlipViews makes 3 .* Recorder learns from 2, .* of SimCLRViews"):
        quiet_trainer(max_steps=1).fit(Recorder(SimCLRViews()), datamodule=data)


def test_views_have_the_precision_of_the_trainer():
    model = Recorder()
    quiet_trainer(max_steps=1, precision="64-true", limit_val_batches=0).fit(model, datamodule=Numbers(batch_size=8))
    assert {view.dtype for view in model.batch.views} == {torch.float64}


def test_the_index_stays_on_the_cpu():
    batch = numbers(4)[[0, 1]]
    moved = Numbers().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert (moved.image.device.type, moved.label.device.type, moved.index.device.type) == (
        "meta",
        "meta",
        "cpu",
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_how_often_one_evaluates_leaves_training_bit_identical(workers):
    weights = []
    for limit in ({"limit_val_batches": 0}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 1}):
        torch.manual_seed(0)
        model = Recorder()
        data = Numbers(batch_size=8, num_workers=workers)
        quiet_trainer(max_epochs=2, **limit).fit(model, datamodule=data)
        weights.append(model.weight.item())
    assert weights[0] == weights[1] == weights[2] != 0


def test_unlabelled_images_train_without_evaluation():
    model, data = Recorder(), Unlabelled(batch_size=8)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(model, datamodule=data)
    assert len(model.trained) == 8
    assert model.evaluated == []
    assert trainer.validate(model, datamodule=data) == []
    assert trainer.test(model, datamodule=data) == []
    assert (data.val_dataloader(), data.test_dataloader()) == ([], [])
    assert (trainer.limit_val_batches, trainer.limit_test_batches) == (1.0, 1.0)


def test_test_asks_the_bank_and_the_test_images():
    model = Recorder()
    quiet_trainer().test(model, datamodule=Numbers(batch_size=8))
    assert [sorted(i for of, batch in model.evaluated if of == loader for i in batch) for loader in (0, 1)] == [
        list(range(32)),
        list(range(7)),
    ]


def test_predict_describes_every_image_in_order_and_names_it():
    data = Numbers(batch_size=4)
    described = quiet_trainer().predict(Recorder(), datamodule=data)
    assert torch.cat(described).tolist() == list(range(7))
    assert data.names == [f"{i}.png" for i in range(7)]


def test_val_size_holds_out_balanced_training_images():
    data = set_up(Digits(batch_size=100, val_size=50, seed=1))
    bank, val = data.val_dataloader()
    test_bank, test = data.test_dataloader()
    held, kept = indices(val), indices(bank)
    assert sorted(held + kept) == list(range(1437))
    assert sorted(data.train_dataloader().dataset[list(range(1387))].index.tolist()) == sorted(kept)
    assert indices(test_bank) == kept
    assert len(indices(test)) == 360
    labels = torch.cat([batch.label for batch in val])
    assert labels.bincount().tolist() == [5] * 10
    assert indices(set_up(Digits(val_size=50, seed=1)).val_dataloader()[1]) == held
    assert indices(set_up(Digits(val_size=50, seed=2)).val_dataloader()[1]) != held


def test_val_size_leaves_a_training_set_that_contains_the_bank():
    class Both(Numbers):
        def splits(self):
            labels = np.where(np.arange(32) < 10, np.arange(32) % 2, -1)
            train = ImageArray(numbers(32).images, labels)
            bank = Part(train, np.arange(10))
            return Splits(train, bank, None, None, train)

    data = set_up(Both(val_size=4, batch_size=4))
    bank, val = data.val_dataloader()
    held = indices(val)
    assert len(held) == 4
    assert set(held) | set(indices(bank)) == set(range(10))
    train = data.train_dataloader().dataset
    assert len(train) == 28
    assert not set(held) & set(train[list(range(28))].index.tolist())
    assert indices(data.test_dataloader()[1]) == held  # there are no test images


def test_val_size_needs_enough_labels():
    with pytest.raises(ValueError, match=r"val_size=4 needs labelled training images"):
        set_up(Unlabelled(val_size=4))
    with pytest.raises(ValueError, match=r"40 images asked for, but only 32 have a label"):
        set_up(Numbers(val_size=40))


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("num_workers", -1), ("val_size", -1), ("seed", -1)])
def test_sizes_out_of_range_are_errors(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least [01], got {value}"):
        Numbers(**{name: value})


def test_overfitting_by_lightnings_flag_is_refused():
    with pytest.raises(ValueError, match=r"overfit_batches=2 would replace the order"):
        quiet_trainer(overfit_batches=2, max_epochs=1).fit(Recorder(), datamodule=Numbers(batch_size=8))


def test_the_batch_size_of_a_process_can_be_read_from_the_trainer():
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(Recorder(), datamodule=Numbers(batch_size=8))
    assert trainer.train_dataloader.sampler.batch_size == 8


def test_workers_end_with_the_run():
    data = Numbers(batch_size=8, num_workers=2)
    quiet_trainer(max_epochs=1).fit(Recorder(), datamodule=data)
    assert torch.multiprocessing.active_children() == []
