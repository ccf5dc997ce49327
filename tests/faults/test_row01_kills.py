"""Row 1: whatever process of a training is killed, at whatever moment, it goes on by itself and loses nothing."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from disturbed import (
    CONTROLLER,
    MAILBOX,
    MOMENTS,
    RANK,
    STEPS,
    TASK,
    Killer,
    Trained,
    disturbed_experiment,
    spread,
    train,
)
from injections import record
from small_runs import assert_bitwise_equal, restored
from small_runs import train as train_without_ray

from vitray.cluster.local import Cluster
from vitray.train.whereabouts import EVALUATING

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]
_WHOLE = [(kind, moment) for moment in MOMENTS for kind in (RANK, TASK, MAILBOX, CONTROLLER)]


def check(disturbed: Trained, epochs: int) -> None:
    assert [report.epoch for report in disturbed.reports] == list(range(1, epochs + 1))
    assert len(disturbed.ledger.seen()) == epochs * STEPS
    assert disturbed.missing_and_doubled() == (0, 0)


def test_a_training_whose_mailbox_is_killed_goes_on_by_itself(cluster: Cluster, digits: Path, tmp_path: Path) -> None:
    """What of the row every test run does; a killed rank is in tests/train, a killed controller in tests/tune."""
    plan = [(MAILBOX, EVALUATING)]
    run = disturbed_experiment(digits, epochs := 3)
    train_without_ray(run, tmp_path / "undisturbed")
    killer = Killer(tmp_path / "killed", plan, seed=0)
    killer.start()
    disturbed = train(cluster, run, tmp_path / "killed", 1, max_restarts=1)  # in a row
    killer.join(1)
    assert [(kill.kind, kill.moment) for kill in killer.kills] == plan, killer.error
    assert_bitwise_equal(restored(tmp_path / "undisturbed", run)[1], disturbed.tensors)
    check(disturbed, epochs)
    started = [note for note in disturbed.notes if note.endswith(": other ranks go on")]
    assert [note.partition(" has ended")[0] for note in started] == ["the mailbox"]


@pytest.mark.faults
@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_kills_change_no_bit(cluster: Cluster, digits: Path, tmp_path: Path, ranks: int) -> None:
    """Half of the row's kills of a training: each kind twice, in two moments of four."""
    begun = time.monotonic()
    order = random.Random(ranks).sample(_WHOLE[(ranks - 1) :: 2], 8)
    run = disturbed_experiment(digits, epochs := 2 * len(order) + 2)
    undisturbed = train(cluster, run, tmp_path / "undisturbed", ranks)
    killer = Killer(tmp_path / "killed", order, seed=ranks)
    killer.start()
    disturbed = train(cluster, run, tmp_path / "killed", ranks)
    killer.join(1)
    equal = all(bool((tensor == disturbed.tensors[name]).all()) for name, tensor in undisturbed.tensors.items())
    missing, doubled = disturbed.missing_and_doubled()
    kills = killer.kills
    held = len(kills) == len(order) and killer.error is None and equal and missing == doubled == 0
    times = spread([kill.recovery_s for kill in kills if kill.kind != TASK])
    record(
        1,
        f"{len(kills)} of {len(order)} kills with {ranks} rank{'s' * (ranks > 1)}: weights "
        f"{'bitwise equal' if equal else 'differ'}, {missing} samples missing, {doubled} doubled; "
        f"kill to next step {times['median_s']} s (median), {times['p95_s']} s (p95)",
        held=held,
        **times,
        steps_done_again=disturbed.ledger.done_again(),
        row_s=round(time.monotonic() - begun),
    )
    assert killer.error is None
    assert_bitwise_equal(undisturbed.tensors, disturbed.tensors)
    check(disturbed, epochs)
