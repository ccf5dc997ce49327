"""The loop without Ray, on real digits: it learns, stops, resumes to the bit, and counts exactly on any ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from other_processes import CONTEXT, train_as_rank
from small_runs import STEPS, assert_bitwise_equal, restored, small_experiment, small_feed, tensors_of, train

from vitray.data.unit import Batch
from vitray.errors import NotFiniteError
from vitray.models.package import load_package
from vitray.train.checkpoint import CheckpointStore, verify
from vitray.train.evaluate import evaluate
from vitray.train.feed import Feed
from vitray.train.leaving import Leaving, Notice
from vitray.train.loop import fit, fresh_state, train_step
from vitray.train.ranks import Ranks
from vitray.train.report import RecordingReporter, Report

pytestmark = pytest.mark.slow

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "train__mixup": 0.4, "train__ema": 0.9, "train__label_smoothing": 0.1, "train__accumulate": 3,
        "model__drop_path": 0.2, "model__attn_dropout": 0.1, "model__depth": 2, "model__pos_encoding": "relative",
    },
}  # fmt: skip


class KilledError(Exception):
    """Stands for a process that dies."""


def dies_at(epoch: int) -> Callable[[Report], None]:
    def die(report: Report) -> None:
        if report.epoch == epoch:
            raise KilledError

    return die


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_learns(digits: Path, tmp_path: Path, recipe: str) -> None:
    larger = {"train__epochs": 4, "train__global_batch": 64, "model__embed_dim": 32, "optim__lr": 5e-3}
    reports = train(small_experiment(digits, **RECIPES[recipe], **larger), tmp_path)
    assert [(r.epoch, r.step) for r in reports] == [(epoch, 20 * epoch) for epoch in range(1, 5)]
    losses = [r.metrics["train/loss"] for r in reports]
    assert losses[-1] < losses[0]
    assert reports[-1].metrics["val/accuracy"] > 0.4  # four times chance, in a hundred steps
    assert reports[-1].metrics["val/samples"] == 180
    assert reports[-1].metrics["lr"] < reports[0].metrics["lr"]
    for report in reports:
        assert all(math.isfinite(value) for value in report.metrics.values())
        assert report.metrics["images_per_s"] > 0
        assert 0 <= report.metrics["data_wait"] <= 1


def test_a_run_is_repeatable_to_the_bit(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits, **RECIPES["everything"])
    one, two = (train(experiment, tmp_path / name) for name in ("one", "two"))
    assert [r.metrics["train/loss"] for r in one] == [r.metrics["train/loss"] for r in two]
    assert_bitwise_equal(restored(tmp_path / "one", experiment)[1], restored(tmp_path / "two", experiment)[1])
    other = small_experiment(digits, train__seed=1, **RECIPES["everything"])
    assert train(other, tmp_path / "other")[0].metrics["train/loss"] != one[0].metrics["train/loss"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_resumed_after_a_stop_it_ends_with_the_same_bits(digits: Path, tmp_path: Path, recipe: str) -> None:
    experiment = small_experiment(digits, train__epochs=3, **RECIPES[recipe])
    whole = train(experiment, tmp_path / "whole")
    assert [r.epoch for r in train(experiment, tmp_path / "parts", stop_at_epoch=1)] == [1]
    progress, _ = restored(tmp_path / "parts", experiment)
    assert progress.step == STEPS
    rest = train(experiment, tmp_path / "parts")
    assert [r.epoch for r in rest] == [1, 2, 3]  # the report that goes with the checkpoint may have been missed
    assert [r.metrics["train/loss"] for r in rest] == [r.metrics["train/loss"] for r in whole]
    assert [r.metrics["val/loss"] for r in rest] == [r.metrics["val/loss"] for r in whole]
    assert restored(tmp_path / "whole", experiment)[0] == restored(tmp_path / "parts", experiment)[0]
    assert_bitwise_equal(restored(tmp_path / "whole", experiment)[1], restored(tmp_path / "parts", experiment)[1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_resumed_in_mid_epoch_it_ends_with_the_same_bits(digits: Path, tmp_path: Path, recipe: str) -> None:
    experiment = small_experiment(digits, train__epochs=2, train__checkpoint_steps=3, **RECIPES[recipe])
    train(experiment, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(experiment, tmp_path / "parts", on_report=dies_at(2))
    # What the second epoch's end saved is taken away: the newest is then the one of step 9, in mid-epoch.
    store = CheckpointStore(tmp_path / "parts")
    newest = store.newest()
    assert newest is not None
    (newest / "commit.json").unlink()
    progress, _ = restored(tmp_path / "parts", experiment)
    assert progress.step == 9
    reports = train(experiment, tmp_path / "parts")
    assert [r.epoch for r in reports] == [2]
    assert restored(tmp_path / "whole", experiment)[0] == restored(tmp_path / "parts", experiment)[0]
    assert_bitwise_equal(restored(tmp_path / "whole", experiment)[1], restored(tmp_path / "parts", experiment)[1])


def test_resuming_a_finished_run_trains_no_further(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits)
    train(experiment, tmp_path)
    before = restored(tmp_path, experiment)
    assert [r.epoch for r in train(experiment, tmp_path)] == [experiment.train.epochs]  # said again, for who missed it
    after = restored(tmp_path, experiment)
    assert after[0] == before[0]
    assert_bitwise_equal(after[1], before[1])


def test_a_stop_holds_at_the_epoch_and_leaves_its_checkpoint(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits, train__epochs=5)
    reports = train(experiment, tmp_path, stop_at_epoch=2)
    assert [r.epoch for r in reports] == [1, 2]
    newest = CheckpointStore(tmp_path).newest()
    assert newest is not None
    assert reports[-1].checkpoint == str(newest)
    assert json.loads((newest / "state.json").read_text())["step"] == 2 * STEPS


def test_the_best_epoch_is_remembered_and_kept(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits, train__epochs=6, train__keep_last=1, optim__lr=0.03)
    reports = train(experiment, tmp_path)
    scores = [r.metrics["val/accuracy"] for r in reports]
    best = scores.index(max(scores)) + 1
    progress, _ = restored(tmp_path, experiment)
    assert (progress.best, progress.best_step) == (max(scores), best * STEPS)
    kept = {int(p.name.split("-")[1]) for p in CheckpointStore(tmp_path).committed()}
    assert kept == {best * STEPS, 6 * STEPS}


def gradients(digits: Path, **values: Any) -> list[torch.Tensor]:
    """What a step gives to the optimizer. (Not the weights after it: Adam makes a full step of the smallest noise.)"""
    experiment = small_experiment(digits, model__dropout=0.0, train__clip_grad=None, **values)
    feed, state = small_feed(experiment), fresh_state(experiment, Ranks())
    seen: list[torch.Tensor] = []

    def keep() -> None:
        seen.extend(p.grad.clone() for p in state.model.parameters() if p.grad is not None)

    state.optimizer.step = keep  # type: ignore[method-assign, assignment]
    for batch in feed.train(3, 5):  # the last of the epoch is short
        train_step(state.model, state, batch, feed)
    assert len(seen) == 2 * len(list(state.model.parameters()))
    return seen


@pytest.mark.parametrize("accumulate", [2, 3, 1000])
def test_accumulated_micro_batches_are_the_same_step(digits: Path, accumulate: int) -> None:
    for mixup in (0.0, 0.5):
        once = gradients(digits, train__mixup=mixup)
        split = gradients(digits, train__mixup=mixup, train__accumulate=accumulate)
        for a, b in zip(once, split, strict=True):
            assert torch.allclose(a, b, atol=1e-6, rtol=1e-4)


def test_the_loss_returned_is_the_sum_over_rows(digits: Path) -> None:
    experiment = small_experiment(digits, model__dropout=0.0)
    feed, state = small_feed(experiment), fresh_state(experiment, Ranks())
    for batch in feed.train(4, 5):
        labels = torch.tensor(batch.label)
        expected = torch.nn.functional.cross_entropy(state.model(feed.to_input(batch)), labels, reduction="sum").item()
        assert float(train_step(state.model, state, batch, feed)) == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_is_an_error_and_nothing_is_reported(digits: Path, tmp_path: Path) -> None:
    heard: list[Report] = []
    experiment = small_experiment(digits, optim__lr=1e30, train__clip_grad=None)
    with pytest.raises(NotFiniteError, match=r"training loss is (nan|inf).*\n.*lower optim\.lr"):
        train(experiment, tmp_path, on_report=heard.append)
    assert heard == []
    assert CheckpointStore(tmp_path).newest() is None


def test_on_train_and_val_together_there_is_nothing_to_validate(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits, train__split="train+val", train__epochs=1)
    (report,) = train(experiment, tmp_path)
    assert report.step == -(-1438 // 256)
    assert not any(name.startswith("val/") for name in report.metrics)
    assert restored(tmp_path, experiment)[0].best is None


def test_a_dataset_without_a_val_split_trains_without_validation(tmp_path: Path) -> None:
    from vitray.data.prepare import prepare

    prepare("builtin:digits", tmp_path / "ds", fractions=(0.8, 0.0, 0.2))
    (report,) = train(small_experiment(tmp_path / "ds", train__epochs=1), tmp_path / "run")
    assert not any(name.startswith("val/") for name in report.metrics)


def test_averaged_weights_are_what_is_validated_and_packaged(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits, train__ema=0.5, train__epochs=1)
    (report,) = train(experiment, tmp_path)
    newest = CheckpointStore(tmp_path).newest()
    assert newest is not None
    model, _ = load_package(newest)
    feed = small_feed(experiment)
    found = dict(evaluate(model, feed.evaluation("val"), feed.to_input, Ranks()))
    assert found["loss"] == pytest.approx(report.metrics["val/loss"], rel=1e-5)
    _, tensors = restored(tmp_path, experiment)
    assert not torch.equal(tensors["model.head.weight"], tensors["ema.head.weight"])
    assert torch.equal(model.head.weight, tensors["ema.head.weight"])


def test_the_average_is_exponential(digits: Path) -> None:
    experiment = small_experiment(digits, train__ema=0.75)
    feed, state = small_feed(experiment), fresh_state(experiment, Ranks())
    assert state.ema is not None
    expected = {name: value.clone() for name, value in state.ema.items()}
    for batch in feed.train(0, 2):
        train_step(state.model, state, batch, feed)
        for name, value in state.model.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * value.detach()
    for name, value in expected.items():
        assert torch.allclose(state.ema[name], value, atol=1e-7), name


def test_gradients_are_clipped_only_when_asked_to(digits: Path) -> None:
    experiment = small_experiment(digits)
    feed = small_feed(experiment)
    seen: dict[object, float] = {}
    for limit in (1e-3, None):
        values = experiment.with_values({"train.clip_grad": limit})
        state = fresh_state(values, Ranks())
        step = state.optimizer.step
        norms: list[float] = []

        def measured(state: Any = state, norms: list[float] = norms, step: Any = step) -> None:
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters()])))
            step()

        state.optimizer.step = measured  # type: ignore[method-assign, assignment]
        for batch in feed.train(0, 1):
            train_step(state.model, state, batch, small_feed(values))
        seen[limit] = norms[0]
    assert seen[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert seen[None] > 1e-2


def test_fresh_weights_depend_on_the_seed_alone(digits: Path) -> None:
    experiment = small_experiment(digits)
    torch.manual_seed(1)
    one = tensors_of(fresh_state(experiment, Ranks()))
    torch.manual_seed(2)
    assert_bitwise_equal(one, tensors_of(fresh_state(experiment, Ranks(1, 2))))


RUNS = [
    # 1,258 rows in batches of 251: the steps are odd, and the last has three rows.
    {"train__global_batch": 251, "train__epochs": 2, "model__dropout": 0.0},
    {"train__global_batch": 251, "train__epochs": 1, "model__dropout": 0.0, "train__mixup": 0.4, "train__cutmix": 0.7},
    # The last step has one row: a rank takes part with none, in micro-batches of its own number.
    {"train__global_batch": 419, "train__epochs": 2, "model__dropout": 0.0, "train__accumulate": 2, "train__ema": 0.9},
]


@pytest.mark.slow
def test_two_ranks_train_and_count_as_one(digits: Path, tmp_path: Path) -> None:
    """World size 2 over gloo: the same losses within float32's rounding, and exactly the same counts."""
    out = CONTEXT.SimpleQueue()
    ranks = [CONTEXT.Process(target=train_as_rank, args=(r, 2, tmp_path, digits, RUNS, out)) for r in range(2)]
    for process in ranks:
        process.start()
    said = {}
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
        rank, losses, scores = out.get()
        said[rank] = scores
        if rank == 0:
            of_first = losses
    assert said[0] == said[1]
    for number, values in enumerate(RUNS):
        experiment = small_experiment(digits, **values)
        alone = train(experiment, tmp_path / f"alone-{number}")
        assert of_first[number] == pytest.approx([r.metrics["train/loss"] for r in alone], rel=1e-5)
        feed, model = small_feed(experiment), fresh_state(experiment, Ranks()).model
        for split, rows in (("val", 180), ("test", 359)):
            found = dict(evaluate(model, feed.evaluation(split), feed.to_input, Ranks()))
            assert said[0][number][split]["samples"] == found["samples"] == rows
            assert said[0][number][split]["accuracy"] == found["accuracy"]
            assert said[0][number][split]["loss"] == pytest.approx(found["loss"], rel=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("step", [7, STEPS])
def test_left_after_any_step_it_ends_with_the_same_bits_and_the_same_report(
    digits: Path, tmp_path: Path, recipe: str, step: int
) -> None:
    experiment = small_experiment(digits, train__epochs=2, **RECIPES[recipe])
    whole = train(experiment, tmp_path / "whole")
    leaving = Leaving()
    leaving.begin(1)
    leaving.hear(Notice(1, 1, step, agreed=True))
    before = train(experiment, tmp_path / "parts", leaving=leaving)
    assert leaving.left_at == step
    assert restored(tmp_path / "parts", experiment)[0].step == step
    rest = train(experiment, tmp_path / "parts", known_epoch=len(before))
    assert [r.epoch for r in before + rest] == [1, 2]  # an epoch that was done, but not reported, is reported then
    for name in ("train/loss", "val/loss", "lr"):  # of all the epoch's steps, whoever did them
        assert [r.metrics[name] for r in before + rest] == [r.metrics[name] for r in whole]
    assert all(r.metrics["images_per_s"] > 0 for r in rest)
    assert restored(tmp_path / "whole", experiment)[0] == restored(tmp_path / "parts", experiment)[0]
    assert_bitwise_equal(restored(tmp_path / "whole", experiment)[1], restored(tmp_path / "parts", experiment)[1])


def test_asked_to_leave_while_it_evaluates_it_saves_what_it_has(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits, train__epochs=1)
    leaving, seen = Leaving(), list[int]()
    feed = small_feed(experiment)
    store = CheckpointStore(tmp_path)

    class Asks(Feed):
        def evaluation(self, split: str) -> Iterator[Batch]:
            leaving.hear(Notice(0, 1))  # somebody does, in the evaluation of the epoch's end
            for batch in super().evaluation(split):
                yield batch
                store.wait()
                seen.extend(verify(folder).step for folder in store.committed())

    fit(Asks(experiment, feed.data, feed.ranks, feed.options), Ranks(), RecordingReporter(), store, leaving=leaving)
    store.close()
    assert seen == [STEPS]  # nothing would have been lost
    newest = store.newest()
    assert newest is not None
    assert len(verify(newest).reports) == 1
