import json

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.features import Features, FeatureScore, balanced
from callbacks.knn import KNNMonitor
from callbacks.linear import LinearEvaluation
from callbacks.rank import RankMonitor
from datamodules.loader import EvalBatches, Loader
from tests.callbacks.tiny import TWO_PROCESSES, TinyData, TinyModel, trainer


class Record(FeatureScore):
    """Writes what it is given to a file, which survives the processes of a test."""

    kind = "record"
    progress_bar = ()

    def __init__(self, path=None, **kwargs):
        super().__init__(**kwargs)
        self.path = path
        self.seen = []

    @property
    def protocol(self):
        return f"record-v1: {self.bank_words}"

    def score(self, bank, query):
        self.seen.append((bank, query))
        if self.path and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            self.path.write_text(json.dumps([c.tolist() for rows in (bank, query) for c in rows]))
        return {"size": float(len(bank.label)), "labels": bank.label.float().mean()}


@pytest.fixture
def said(monkeypatch):
    words = []
    monkeypatch.setattr("callbacks.features.rank_zero_info", words.append)
    return words


def test_bank_and_queries_arrive_once_each_in_the_order_of_index(tmp_path):
    record, data, model = Record(), TinyData(), TinyModel()
    trainer(tmp_path, record).validate(model, data, verbose=False)
    ((bank, query),) = record.seen
    assert bank.index.tolist() == list(range(61))
    assert query.index.tolist() == list(range(23))
    assert bank.label.tolist() == data.sets[0].labels.tolist()
    batch = data.sets[1][list(range(23))]
    torch.testing.assert_close(query.features, model(batch.image.float() / 255).detach())
    assert query.features.dtype == torch.float32


def test_features_are_gathered_once_for_all_callbacks(tmp_path, monkeypatch):
    calls = []
    gather = Features.take
    first, second = Record(name="a"), Record(name="b")
    monkeypatch.setattr(Features, "take", lambda rows, which: calls.append(1) or gather(rows, which))
    trainer(tmp_path, first, second).validate(TinyModel(), TinyData(), verbose=False)
    assert first.seen[0][0].features.data_ptr() != 0
    assert torch.equal(first.seen[0][0].features, second.seen[0][0].features)
    assert len(calls) == 2 + 2 * 2  # one gather of each set; labelled rows of each set for each callback
    assert first.rows == second.rows == {}  # and nothing is kept


def test_two_processes_see_exactly_what_one_sees(tmp_path):
    one = Record()
    torch.manual_seed(1)
    trainer(tmp_path, one).validate(TinyModel(), TinyData(), verbose=False)
    torch.manual_seed(1)
    path = tmp_path / "rank1.json"
    trainer(tmp_path, Record(path), **TWO_PROCESSES).validate(TinyModel(), TinyData(), verbose=False)
    two = [torch.tensor(column) for column in json.loads(path.read_text())]
    for a, b in zip([c for rows in one.seen[0] for c in rows], two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert len(a) % 2 == 1  # a number of images that two processes cannot share evenly


@pytest.mark.parametrize("queries", [23, 1])
def test_two_processes_score_what_one_scores(tmp_path, queries):
    scores = []
    for settings in ({}, TWO_PROCESSES):
        torch.manual_seed(1)
        callbacks = (
            KNNMonitor(k=3),
            LinearEvaluation(epochs=1),
            RankMonitor(),
            KNNMonitor(3, name="few", labels_per_class=5),
        )
        run = trainer(tmp_path, *callbacks, **settings)
        data = TinyData(queries=queries)
        if queries == 1:
            callbacks[2].min_rank = callbacks[2].min_std = 0  # one image has no spread
        run.validate(TinyModel(), data, verbose=False)
        scores.append({name: float(value) for name, value in run.callback_metrics.items()})
    assert scores[0].keys() >= {"val/knn_top1", "val/linear_top1", "val/linear_rate", "val/feature_rank"}
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    for name in ("val/knn_top1", "val/linear_top1", "val/linear_rate", "val/few_top1"):
        assert scores[0][name] == scores[1][name]


def test_evaluating_does_not_change_training(tmp_path):
    weights = []
    everything = (KNNMonitor(k=3), LinearEvaluation(epochs=1, every_n_epochs=1), RankMonitor())
    for callbacks in ((), everything):
        torch.manual_seed(0)
        model = TinyModel()
        run = trainer(tmp_path, *callbacks)
        run.fit(model, TinyData())
        weights.append(model.net.weight.detach().clone())
    assert "val/linear_top1" in run.callback_metrics
    assert torch.equal(*weights)
    torch.manual_seed(0)
    model = TinyModel()
    run = trainer(tmp_path, _Draws())
    run.fit(model, TinyData())
    assert not torch.equal(weights[0], model.net.weight)  # the check notices a callback that draws


class _Draws(Record):
    def score(self, bank, query):
        torch.rand(1)
        return {}


def test_scores_in_the_epochs_asked_for_and_not_in_the_sanity_check(tmp_path):
    record, never = Record(every_n_epochs=2), Record(every_n_epochs=0, name="never")
    run = trainer(tmp_path, record, never, max_epochs=5)
    run.fit(TinyModel(), TinyData())
    assert len(record.seen) == 2
    assert never.seen == []
    run.validate(TinyModel(), TinyData(), verbose=False)
    assert (len(record.seen), len(never.seen)) == (3, 1)


def test_nothing_is_scored_under_fast_dev_run(tmp_path):
    record = Record()
    trainer(tmp_path, record, fast_dev_run=True).fit(TinyModel(), TinyData())
    assert record.seen == []


def test_metrics_have_plain_names_and_checkpoints_can_follow_them(tmp_path):
    follow = ModelCheckpoint(tmp_path, monitor="val/knn_top1", mode="max")
    knn = KNNMonitor(k=3)
    run = trainer(tmp_path, knn, follow, enable_checkpointing=True)
    run.fit(TinyModel(), TinyData())
    assert follow.best_model_score == run.callback_metrics["val/knn_top1"] > 0.5
    assert "val/knn_top1" in run.progress_bar_metrics
    run.test(TinyModel(), TinyData(), verbose=False)
    assert set(run.callback_metrics) == {"test/knn_top1"}


@pytest.mark.parametrize(
    ("stage", "limit"),
    [("fit", "limit_val_batches"), ("validate", "limit_val_batches"), ("test", "limit_test_batches")],
)
@pytest.mark.parametrize("value", [1, 3, 0.5])
def test_a_cut_bank_is_an_error_that_names_the_flag(tmp_path, stage, limit, value):
    run = trainer(tmp_path, KNNMonitor(k=3), **{limit: value})
    with pytest.raises(ValueError, match=rf"{limit}={value} would cut .* KNNMonitor"):
        getattr(run, stage)(TinyModel(), TinyData())


def test_a_cut_bank_that_is_not_used_is_no_error(tmp_path):
    trainer(tmp_path, KNNMonitor(k=3, every_n_epochs=0), limit_val_batches=1).fit(TinyModel(), TinyData())
    trainer(tmp_path, KNNMonitor(k=3), limit_val_batches=0).fit(TinyModel(), TinyData())


def test_unlabelled_images_switch_scores_off_with_a_word(tmp_path, said):
    run = trainer(tmp_path, KNNMonitor(k=3), RankMonitor())
    run.fit(TinyModel(), TinyData(labelled=False))
    assert said == ["KNNMonitor is off: the bank has no labelled images"]  # once
    assert set(run.callback_metrics) == {"val/feature_rank", "val/feature_std"}


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")  # Lightning's word for it
def test_no_validation_data_switches_scores_off_with_a_word(tmp_path, said):
    class NoValidation(TinyData):
        def val_dataloader(self):
            return []

    trainer(tmp_path, KNNMonitor(k=3)).fit(TinyModel(), NoValidation())
    assert said == ["KNNMonitor is off: there are no validation data"]


def test_unlabelled_rows_are_left_out(tmp_path):
    data, record = TinyData(), Record()
    data.sets[0].labels[:10] = -1
    trainer(tmp_path, record).validate(TinyModel(), data, verbose=False)
    assert record.seen[0][0].index.tolist() == list(range(10, 61))


def test_an_image_served_twice_counts_once(tmp_path):
    class Padded(EvalBatches):
        def __iter__(self):
            yield from super().__iter__()
            yield [0, 1]

        def __len__(self):
            return super().__len__() + 1

    class Twice(TinyData):
        def _loader(self, of):
            return Loader(self.sets[of], Padded(len(self.sets[of]), self.batch_size))

    record = Record()
    trainer(tmp_path, record).validate(TinyModel(), Twice(), verbose=False)
    assert record.seen[0][0].index.tolist() == list(range(61))


@pytest.mark.parametrize(
    ("step", "got"),
    [
        (lambda x: {"loss": x.mean()}, r"\(\) for 'loss'"),
        (lambda x: x[1:], r"\(7, 8\): return"),
        (lambda x: [x], "list"),
    ],
)
def test_a_step_that_returns_no_features_is_an_error(tmp_path, step, got):
    class NoFeatures(TinyModel):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return step(self(batch.image.float()))

    with pytest.raises(ValueError, match=rf"must return features \(B, D\) with B = 8, .* got {got}"):
        trainer(tmp_path, KNNMonitor(k=3)).validate(NoFeatures(), TinyData(), verbose=False)


class Layered(TinyModel):
    """Returns features of two widths by layer, or those of the named one."""

    def __init__(self, only=None):
        super().__init__()
        self.only = only

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x = batch.image.float() / 255
        layers = {"b": x.mean((2, 3)), "a": self(x)}
        return layers[self.only] if self.only else layers

    test_step = validation_step


def layer_scores(tmp_path, only=None, queries=23, **settings):
    torch.manual_seed(1)
    callbacks = KNNMonitor(k=3), LinearEvaluation(epochs=1), KNNMonitor(3, name="few", labels_per_class=5)
    run = trainer(tmp_path, *callbacks, RankMonitor(min_rank=0, min_std=0), **settings)
    run.validate(Layered(only), TinyData(queries=queries), verbose=False)
    return {name: float(value) for name, value in run.callback_metrics.items()}


def test_each_layer_is_scored_as_if_it_were_the_only_one(tmp_path):
    both = layer_scores(tmp_path)
    assert len(both) == 2 * 7
    assert both["val/linear_top1/a"] != both["val/linear_top1/b"]
    for layer in "ab":
        only = layer_scores(tmp_path, layer)
        assert {name: both[f"{name}/{layer}"] for name in only} == only


@pytest.mark.parametrize("queries", [23, 1])
def test_two_processes_score_layers_as_one_does(tmp_path, queries):
    one, two = (layer_scores(tmp_path, queries=queries, **settings) for settings in ({}, TWO_PROCESSES))
    assert one.keys() == two.keys()
    assert one == pytest.approx(two, abs=1e-5)


def test_a_process_without_any_image_knows_the_layers(tmp_path):
    alone = RankMonitor(min_rank=0, min_std=0)
    run = trainer(tmp_path, alone, **TWO_PROCESSES)
    run.validate(Layered(), TinyData(bank=1, queries=1), verbose=False)
    assert "val/feature_rank/b" in run.callback_metrics


def test_of_a_layer_only_the_gathered_features_are_kept(tmp_path):
    class Watch(Record):
        def score(self, bank, query):
            assert [r.features.numel() for of in self.rows.values() for rows in of.values() for r in rows] == [0] * 22
            return super().score(bank, query)

    watch = Watch()
    trainer(tmp_path, watch).validate(Layered(), TinyData(), verbose=False)
    assert [bank.features.shape for bank, _ in watch.seen] == [(61, 3), (61, 8)]


def test_few_labels_are_balanced_and_the_same_in_every_run(tmp_path):
    seen = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        record = Record(labels_per_class=5, draws=3)
        run = trainer(tmp_path, record)
        run.validate(TinyModel(), TinyData(), verbose=False)
        seen.append([bank.index.tolist() for bank, _ in record.seen])
        assert all(bank.label.bincount().tolist() == [5] * 4 for bank, _ in record.seen)
    assert seen[0] == seen[1]
    assert len({tuple(rows) for rows in seen[0]}) == 3
    assert run.callback_metrics["val/record_5_labels_size"] == 20
    assert run.callback_metrics["val/record_5_labels_size_std"] == 0
    assert record.protocol == "record-v1: 5 labels a class,mean of 3,eval mode"


def test_balanced_takes_all_of_a_small_class():
    label = torch.tensor([0] * 9 + [2] * 2)
    rows = balanced(label, lambda sizes: torch.full_like(sizes, 4), seed=0)
    assert label[rows].bincount().tolist() == [4, 0, 2]
    assert rows.tolist() == sorted(rows.tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_epochs": -1}, "every_n_epochs must be 0"),
        ({"labels_per_class": 0}, "labels_per_class must be 1 or more"),
        ({"draws": 2}, "draws must be 1"),
    ],
)
def test_arguments_out_of_range_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Record(**arguments)


def test_two_scores_of_one_name_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="two scores are named 'knn'"):
        trainer(tmp_path, KNNMonitor(k=1), KNNMonitor(k=3)).validate(TinyModel(), TinyData())
