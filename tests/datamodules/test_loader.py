import json

import pytest
import torch
from lightning.pytorch import Callback

from datamodules.loader import EpochBatches, EvalBatches, LabelledFirst, Loader, TrainLoader
from tests.datamodules.recorder import Numbers, Recorder, numbers, quiet_trainer


def order(n=32, batch_size=8, seed=0, epoch=0, rank=0, world=1):
    batches = EpochBatches(n, batch_size, seed, rank, world)
    batches.set_epoch(epoch)
    return list(batches)


def test_processes_together_see_what_one_process_sees():
    one = order(n=35, batch_size=8, epoch=3)
    two = [order(n=35, batch_size=4, epoch=3, rank=rank, world=2) for rank in range(2)]
    assert one == [a + b for a, b in zip(*two, strict=True)]


def test_an_epoch_repeats_no_image_and_epochs_and_seeds_differ():
    orders = [order(seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert all(len({i for batch in o for i in batch}) == 32 for o in orders)
    assert len({json.dumps(o) for o in orders}) == 9
    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)


def test_too_few_images_for_a_batch_is_an_error_with_a_way_out():
    with pytest.raises(ValueError, match=r"31 training samples .* 16 on each of 2 .* batch_size to at most 15"):
        EpochBatches(31, 16, seed=0, rank=0, world=2)


@pytest.mark.parametrize("n", [0, 1, 5, 12, 13])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_evaluation_takes_each_image_once_in_equally_many_batches(n, world, batch_size):
    samplers = [EvalBatches(n, batch_size, rank, world) for rank in range(world)]
    taken = [list(sampler) for sampler in samplers]
    assert sorted(i for batches in taken for batch in batches for i in batch) == list(range(n))
    assert {len(batches) for batches in taken} == {len(samplers[0])}
    assert all(len(batch) <= batch_size for batches in taken for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_iterating_draws_nothing_from_the_global_generator(workers):
    loader = Loader(numbers(8), EvalBatches(8, 4), workers)
    before = torch.get_rng_state()
    assert [len(batch.index) for _ in range(2) for batch in loader] == [4, 4, 4, 4]
    assert torch.equal(torch.get_rng_state(), before)
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_continues_after_the_batches_handed_out(workers):
    def loader():
        return TrainLoader(numbers(32), EpochBatches(32, 4, seed=5), workers)

    first, second = loader(), loader()
    first.sampler.set_epoch(2)
    iterator = iter(first)
    seen = [next(iterator).index.tolist() for _ in range(3)]
    second.load_state_dict(first.state_dict())
    second.sampler.set_epoch(2)
    assert second.state_dict() == first.state_dict()
    seen += [batch.index.tolist() for batch in second]
    assert seen == order(32, 4, seed=5, epoch=2)
    second.sampler.set_epoch(3)
    assert second.state_dict()["batches"] == 0
    assert [batch.index.tolist() for batch in second] == order(32, 4, seed=5, epoch=3)
    first.close()
    second.close()


def test_resuming_inside_an_epoch_of_another_order_is_an_error():
    state = TrainLoader(numbers(32), EpochBatches(32, 4, seed=0)).state_dict()
    other = TrainLoader(numbers(32), EpochBatches(32, 8, seed=0))
    other.load_state_dict(state)  # before the first batch nothing is lost
    with pytest.raises(ValueError, match=r"'global_batch': 4.*'global_batch': 8.*resume with"):
        other.load_state_dict({**state, "batches": 3})
    same = TrainLoader(numbers(32), EpochBatches(32, 2, seed=0, rank=1, world=2))
    same.load_state_dict({**state, "batches": 3})
    assert same.sampler.start == 3


class Stop(Callback):
    """Ends a run after a step, as a signal would."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


LENGTHS = [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 16}]


@pytest.mark.parametrize("length", LENGTHS, ids=["epochs", "steps"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 6, 8])
def test_a_resumed_run_sees_the_remaining_batches(tmp_path, length, workers, stop):
    whole = Recorder()
    quiet_trainer(**length).fit(whole, datamodule=Numbers(batch_size=8))
    path = tmp_path / "stopped.ckpt"
    before, after = Recorder(), Recorder()
    quiet_trainer(**length, callbacks=[Stop(stop, path)]).fit(
        before, datamodule=Numbers(batch_size=8, num_workers=workers)
    )
    quiet_trainer(**length).fit(
        after, datamodule=Numbers(batch_size=8, num_workers=workers), ckpt_path=path, weights_only=True
    )
    assert len(before.trained) == stop
    assert before.trained + after.trained == whole.trained
    assert whole.trained == [batch for epoch in range(4) for batch in order(epoch=epoch)]


class SaveEpoch(Callback):
    def __init__(self, epoch, path):
        self.epoch, self.path = epoch, path

    def on_train_epoch_end(self, trainer, *args):
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_of_the_end_of_an_epoch_resumes_at_the_next(tmp_path):
    # with max_steps Lightning itself counts one epoch too many here
    whole, after = Recorder(), Recorder()
    path = tmp_path / "epoch.ckpt"
    quiet_trainer(max_epochs=4, callbacks=[SaveEpoch(1, path)]).fit(whole, datamodule=Numbers(batch_size=8))
    quiet_trainer(max_epochs=4).fit(after, datamodule=Numbers(batch_size=8), ckpt_path=path, weights_only=True)
    assert after.trained == whole.trained[8:]


class WriteDown(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        seen = {
            "trained": pl_module.trained,
            "evaluated": pl_module.evaluated,
            "weight": pl_module.weight.item(),
        }
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(seen))


def test_two_processes_train_on_the_batches_of_one_and_evaluate_each_image_once(tmp_path):
    one = Recorder()
    quiet_trainer(max_epochs=2, num_sanity_val_steps=0).fit(one, datamodule=Numbers(n=35, batch_size=8))
    quiet_trainer(
        max_epochs=2, num_sanity_val_steps=0, devices=2, strategy="ddp_fork", callbacks=[WriteDown(tmp_path)]
    ).fit(Recorder(), datamodule=Numbers(n=35, batch_size=4))
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [a + b for a, b in zip(*(rank["trained"] for rank in ranks), strict=True)] == one.trained
    for loader in range(2):
        alone = sorted(i for of, batch in one.evaluated if of == loader for i in batch)
        shared = sorted(i for rank in ranks for of, batch in rank["evaluated"] if of == loader for i in batch)
        assert shared == alone


def test_labelled_images_come_first_as_often_as_it_takes():
    """10 labelled images and a pool of 24, 2 and 6 a step: the pool once, the labelled ones nearly evenly."""
    batches = LabelledFirst(10, 24, batch_size=2, ratio=3, seed=0)
    known, pool = [], []
    for batch in batches:
        known += batch[:2]
        pool += batch[2:]
    assert len(batches) == 4
    assert sorted(pool) == list(range(10, 34))
    assert len(set(known)) == len(known) == 8
    many = LabelledFirst(3, 24, batch_size=2, ratio=3, seed=0)
    rows = [row for batch in many for row in batch[:2]]
    assert [sorted(row % 27 for row in part) for part in (rows[:3], rows[3:6])] == [[0, 1, 2]] * 2
    assert len(set(rows)) == 8  # each time under another number, so that views differ


def test_processes_share_the_labelled_images_and_the_pool_of_a_step():
    alone = LabelledFirst(10, 48, batch_size=4, ratio=2, seed=1)
    two = [LabelledFirst(10, 48, batch_size=2, ratio=2, seed=1, rank=rank, world=2) for rank in (0, 1)]
    for whole, left, right in zip(alone, *two, strict=True):
        assert whole[:4] == left[:2] + right[:2]
        assert whole[4:] == left[2:] + right[2:]


def test_an_epoch_of_labelled_and_unlabelled_images_goes_on_where_it_stopped():
    whole = list(LabelledFirst(10, 24, batch_size=2, ratio=3, seed=2))
    rest = LabelledFirst(10, 24, batch_size=2, ratio=3, seed=2)
    rest.start = 2
    assert list(rest) == whole[2:]
    rest.set_epoch(1)
    assert list(rest) != whole
