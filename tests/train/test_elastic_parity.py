"""Another number of ranks changes nothing else: the samples of a step, their order, the learning rate, the loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from other_processes import CONTEXT, train_stretch, train_stretch_as_rank
from small_runs import STEPS, small_experiment, small_feed

from vitray.data.order import Order
from vitray.experiment import ClusterConfig, Experiment
from vitray.train.memory import micro_batches, rank_images
from vitray.train.ranks import Ranks

_ROWS = 1258  # of an epoch


@settings(deadline=None)
@given(
    rows=st.integers(1, 500), rows_per_group=st.integers(1, 60), batch=st.integers(1, 64), seed=st.integers(0, 9),
    align=st.sampled_from([1, 2]), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30),
)  # fmt: skip
def test_the_samples_of_a_step_do_not_depend_on_how_many_take_part(
    rows: int, rows_per_group: int, batch: int, seed: int, align: int, sizes: list[int]
) -> None:
    order = Order("f", "train", rows, rows_per_group, batch, seed=seed, align=align)
    for step, size in enumerate(sizes):  # another number of ranks in every step
        taken = [sample for rank in range(size) for sample in order.rank_samples(step, rank, size).tolist()]
        assert taken == order.rank_samples(step, 0, 1).tolist()


@pytest.mark.slow
def test_one_rank_then_two_then_one_train_as_one_does(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(
        digits, cluster__workers=(1, 2), train__precision="float32", model__dropout=0.0, train__mixup=0.4,
        train__ema=0.9, train__epochs=3, train__checkpoint_steps=1, train__keep_last=100,
    )  # fmt: skip
    alone, changing = tmp_path / "alone", tmp_path / "changing"
    for folder in (alone, changing):
        folder.mkdir()
    train_stretch(experiment, alone, Ranks(), 13)
    train_stretch(experiment, changing, Ranks(), 3)
    two = [
        CONTEXT.Process(target=train_stretch_as_rank, args=(rank, 2, tmp_path / "meet", experiment, changing, 8))
        for rank in range(2)
    ]
    for process in two:
        process.start()
    for process in two:
        process.join(120)
        assert process.exitcode == 0
    train_stretch(experiment, changing, Ranks(), 13)

    order = small_feed(experiment).order
    taken: dict[int, list[tuple[int, int, list[int]]]] = {}
    for ledger in changing.glob("ledger-*"):
        for line in ledger.read_text().splitlines():
            step, rank, world_size, samples = json.loads(line)
            taken.setdefault(step, []).append((rank, world_size, samples))
    assert sorted(taken) == list(range(13))
    for step, parts in taken.items():
        assert len(parts) == (2 if 3 <= step < 8 else 1)  # once each, by as many as there were
        assert [sample for _, _, part in sorted(parts) for sample in part] == order.step_samples(step).tolist()

    expected, found = losses(alone), losses(changing)
    assert found.keys() == expected.keys() == set(range(1, 14))
    differences = {step: abs(found[step] - expected[step]) for step in expected}
    assert all(differences[step] < 1e-5 for step in (4, 9)), differences  # the first after a change
    assert max(differences.values()) < 1e-3, differences
    assert differences[3] == 0


def losses(folder: Path) -> dict[int, float]:
    """The mean loss of each step, from what its checkpoint says of the epoch up to there."""
    sums: dict[int, tuple[float, float]] = {}
    for path in folder.glob("step-*/state.json"):
        state = json.loads(path.read_text())
        if state["so_far"] is None:
            sums[state["step"]] = (state["reports"][-1]["metrics"]["train/loss"] * _ROWS, _ROWS)
        else:
            sums[state["step"]] = tuple(state["so_far"][:2])
    found = {}
    for step, (loss, rows) in sums.items():
        loss_before, rows_before = sums[step - 1] if step % STEPS != 1 else (0.0, 0.0)
        found[step] = (loss - loss_before) / (rows - rows_before)
    return found


def test_fewer_ranks_take_more_micro_batches_so_that_none_is_larger() -> None:
    experiment = Experiment(
        data={"path": "x"}, train={"global_batch": 64, "accumulate": 2}, cluster={"workers": (1, 4)}
    )
    assert rank_images(experiment) == 8
    for world_size, parts in ((4, 2), (3, 4), (2, 4), (1, 8)):
        assert micro_batches(experiment, world_size) == parts
        assert -(-64 // world_size) / parts <= 8
    fixed = experiment.with_values({"cluster.workers": 4})
    assert micro_batches(fixed, 4) == micro_batches(fixed, 1) == 2


def test_an_elastic_experiment_is_the_same_on_any_number_of_ranks() -> None:
    one, other = (Experiment(data={"path": "x"}, cluster={"workers": workers}) for workers in ([1, 4], (1, 4)))
    assert one.identity == other.identity
    assert one.identity != Experiment(data={"path": "x"}, cluster={"workers": 4}).identity
    assert ClusterConfig(workers=(1, 4)).elastic
    assert not ClusterConfig(workers=(4, 4)).elastic
    assert (ClusterConfig(workers=3).least, ClusterConfig(workers=3).most) == (3, 3)
