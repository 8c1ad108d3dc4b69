import re
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from callbacks import data_wait
from callbacks.data_wait import DataWait, Stopwatch, seconds, way_out
from datamodules.loader import EvalBatches, Loader
from datamodules.sets import ImageArray
from tests.callbacks.tiny import TWO_PROCESSES, TinyData, TinyModel, blobs, trainer
from tests.datamodules.recorder import Numbers, Recorder, quiet_trainer

LINE = re.compile(
    r"data: .*: ([\d.]+) % of the time is waiting for images, ([\d.]+) % making views, ([\d.]+) % the step"
)


class Clock:
    """Time of this process, and of a device that works through what it is given in order, both in ms."""

    def __init__(self, monkeypatch):
        self.now = self.busy_until = 0.0
        clock = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = max(clock.now, clock.busy_until)

            def query(self):
                return clock.now >= self.at

            def synchronize(self):
                clock.now = max(clock.now, self.at)

            def elapsed_time(self, other):
                assert self.query()
                assert other.query()
                return other.at - self.at

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(data_wait, "time", SimpleNamespace(perf_counter=lambda: self.now / 1000))

    def host(self, ms):
        self.now += ms

    def device(self, ms):
        self.busy_until = max(self.now, self.busy_until) + ms


class Images(ImageArray):
    """Takes its time over every batch."""

    def __init__(self, n, pause):
        super().__init__(*blobs(n, 4, 1))
        self.pause = pause

    def __getitem__(self, indices):
        self.pause()
        return super().__getitem__(indices)


class Data(TinyData):
    """`steps` batches an epoch; the next is there after `load`, its views after `views`, each a function."""

    def __init__(self, steps, load=lambda: None, views=lambda: None, workers=0):
        super().__init__()
        self.steps, self.load, self.views, self.workers = steps, load, views, workers

    def train_dataloader(self):
        images = Images(8 * self.steps, self.load)
        return Loader(images, EvalBatches(len(images), 8), self.workers)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            self.views()
        return batch


class Step(Callback):
    """What a step, and a validation between two, take."""

    def __init__(self, step, between=lambda: None):
        self.step, self.between = step, between

    def on_before_backward(self, *args):
        self.step()

    def on_validation_start(self, *args):
        self.between()


def lines(captured):
    return [line for line in captured.readouterr().out.splitlines() if line.startswith("data: ")]


def shares(captured):
    (line,) = lines(captured)
    return line, [float(share) for share in LINE.match(line).groups()]


def test_the_shares_are_those_of_the_time_in_steps(tmp_path, capsys, monkeypatch):
    clock = Clock(monkeypatch)
    data = Data(40, lambda: clock.host(3), lambda: clock.host(1))
    trainer(tmp_path, DataWait(), Step(lambda: clock.host(6), lambda: clock.host(1000))).fit(TinyModel(), data)
    line, found = shares(capsys)
    assert found == [30, 10, 60]
    assert line.startswith("data: the loader is the bottleneck: ")
    assert "--data.num_workers" in line


def test_a_loader_that_keeps_up_is_said_to(tmp_path, capsys, monkeypatch):
    clock = Clock(monkeypatch)
    data = Data(40, lambda: clock.host(0.04))
    trainer(tmp_path, DataWait(), Step(lambda: clock.host(9.96))).fit(TinyModel(), data)
    line, found = shares(capsys)
    assert found == [0.4, 0, 99.6]
    assert line.startswith("data: the loader keeps up, the device is the bottleneck: ")
    assert line.endswith("the step")


def test_the_first_steps_do_not_count(tmp_path, capsys, monkeypatch):
    clock = Clock(monkeypatch)
    waits = iter([1000] * 10 + [1] * 70)
    data = Data(80, lambda: clock.host(next(waits)))
    trainer(tmp_path, DataWait(), Step(lambda: clock.host(1)), max_epochs=1).fit(TinyModel(), data)
    assert shares(capsys)[1] == [50, 0, 50]


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (5, [0, 9.1, 90.9]),  # the device always has work left
        (20, [47.4, 5.2, 47.4]),  # the device has work for half of the 20 ms
    ],
)
def test_only_waiting_that_leaves_the_device_idle_counts(tmp_path, capsys, monkeypatch, load, expected):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(data_wait, "Stopwatch", lambda device: Stopwatch("cuda"))

    def run(ms):
        clock.host(ms / 10)  # to start it
        clock.device(ms)

    data = Data(40, lambda: clock.host(load), lambda: run(1))
    trainer(tmp_path, DataWait(), Step(lambda: run(10))).fit(TinyModel(), data)
    assert shares(capsys)[1] == pytest.approx(expected, abs=0.2)


def test_nothing_waits_for_the_device_while_steps_go_on(tmp_path, capsys, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(data_wait, "Stopwatch", lambda device: Stopwatch("cuda"))
    said = []

    class Said(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if lines(capsys):
                said.append(batch_idx + 1)

    def step():
        clock.host(1)
        clock.device(2)

    trainer(tmp_path, DataWait(), Said(), Step(step), max_epochs=1).fit(TinyModel(), Data(140))
    assert said == [121]  # when the device, which takes 2 ms a step, has done the 60 that are skipped or measured


@pytest.mark.parametrize(("steps", "said"), [(29, 0), (30, 1), (150, 1)])
def test_it_is_said_once_and_only_of_a_run_that_is_long_enough(tmp_path, capsys, steps, said):
    trainer(tmp_path, DataWait(), max_epochs=-1, max_steps=steps).fit(TinyModel(), Data(40))
    assert len(lines(capsys)) == said


def test_a_dry_run_says_nothing(tmp_path, capsys):
    trainer(tmp_path, DataWait(), fast_dev_run=100).fit(TinyModel(), Data(100))
    assert not lines(capsys)


def test_a_run_resumed_inside_an_epoch_says_it_once(tmp_path, capsys):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 10:
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")
                trainer.should_stop = True

    data = Numbers(n=256, batch_size=4)
    quiet_trainer(max_epochs=2, callbacks=[DataWait(), Stop()]).fit(Recorder(), data)
    assert not lines(capsys)
    after = quiet_trainer(max_epochs=2, callbacks=[DataWait()])
    after.fit(Recorder(), data, ckpt_path=tmp_path / "stopped.ckpt", weights_only=True)
    assert after.global_step == 128
    assert len(lines(capsys)) == 1


def test_a_second_fit_says_it_again(tmp_path, capsys):
    callback = DataWait()
    for _ in range(2):
        trainer(tmp_path, callback, max_epochs=1).fit(TinyModel(), Data(40))
        assert len(lines(capsys)) == 1


def test_only_the_first_process_says_it(tmp_path, capfd):
    trainer(tmp_path, DataWait(), max_epochs=1, **TWO_PROCESSES).fit(TinyModel(), Data(80))
    assert len(lines(capfd)) == 1


def test_slow_workers_are_noticed(tmp_path, capsys):
    trainer(tmp_path, DataWait(), max_epochs=1).fit(TinyModel(), Data(50, lambda: time.sleep(0.02), workers=1))
    line, (waiting, *_) = shares(capsys)
    assert "the loader is the bottleneck" in line
    assert 30 < waiting < 100


@pytest.mark.parametrize(
    ("workers", "devices", "cache", "words"),
    [
        (1, 1, False, "raise --data.num_workers, now 1, of 4 cores, or decode the images once with --data.cache true"),
        (2, 2, False, "decode the images once with --data.cache true"),
        (0, 1, True, "raise --data.num_workers, now 0, of 4 cores"),
        (4, 1, None, "move the images to a faster disk, or give the run more cores"),
    ],
)
def test_the_way_out_is_one_that_is_left(monkeypatch, workers, devices, cache, words):
    monkeypatch.setattr(data_wait, "cpus", lambda: 4)
    data = SimpleNamespace() if cache is None else SimpleNamespace(cache=cache)
    said = way_out(SimpleNamespace(num_devices=devices, datamodule=data), SimpleNamespace(num_workers=workers))
    assert said == words


def test_seconds_on_the_cpu_are_seconds():
    watch = Stopwatch("cpu")
    with watch:
        time.sleep(0.02)
    assert watch.reached()
    assert 0.02 <= seconds(*watch.moments) < 2
