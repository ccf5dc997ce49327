"""Row 5: a rank that is stopped, or that others wait for in vain, is replaced within a minute."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path

import hanging_ranks
import psutil
import pytest
from disturbed import CONTROLLER, RANK, STEPS, Trained, awaited, disturbed_experiment, processes, ranks_that_do, train
from hanging_ranks import INTERPRETER, MESSAGE, PYTHON, hanging
from injections import record
from ledger import Ledger, serving
from small_runs import assert_bitwise_equal

from vitray.cluster.local import Cluster
from vitray.train import crew

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(900)]
_EPOCHS, _AT_STEP = 4, 100
STOPPED = "SIGSTOP"


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(cluster, disturbed_experiment(digits, _EPOCHS), tmp_path_factory.mktemp("undisturbed"), 2)


def stop_a_rank(folder: Path, mark: Path) -> None:
    while Ledger(folder / "ledger").steps < _AT_STEP:
        time.sleep(0.05)
    victim = awaited(RANK)[-1]
    mark.write_text(str(time.time()))
    mark.with_suffix(".pid").write_text(str(victim.pid))
    victim.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize("how", [STOPPED, PYTHON, INTERPRETER, MESSAGE])
def test_training_goes_on_within_a_minute(
    cluster: Cluster, digits: Path, tmp_path: Path, undisturbed: Trained, how: str
) -> None:
    run, mark, serve = disturbed_experiment(digits, _EPOCHS), tmp_path / "hung", serving(tmp_path / "run" / "ledger")
    if how == STOPPED:
        threading.Thread(target=stop_a_rank, args=(tmp_path / "run", mark), daemon=True).start()
    else:
        serve = hanging(serve, how, _AT_STEP, mark)
    with ranks_that_do(serve, hanging_ranks):
        disturbed = train(cluster, run, tmp_path / "run", 2, serve=serve, max_restarts=1)
    left = {process.pid for process in psutil.Process().children(recursive=True) if process.status() != "zombie"}
    again = disturbed.ledger.next_step_after(float(mark.read_text())) or float("inf")
    notes = [note for note in disturbed.notes if note.endswith(": the ranks are replaced")]
    missing, doubled = disturbed.missing_and_doubled()
    done_again = disturbed.ledger.done_again()
    held = again <= 60 and missing == doubled == 0 and len(notes) == 1
    record(
        5,
        f"{how}: training again after {again:.0f} s, {done_again} steps done again; told: {notes}",
        held=held,
        again_s=round(again, 1),
        done_again=done_again,
    )
    assert len(notes) == 1, disturbed.notes
    who = {
        STOPPED: r"nothing was heard of rank . for \d+ s; it was .+",
        PYTHON: rf"rank 1 hangs in step {_AT_STEP} for \d+ s \(at .+ in hanging_step\)",
        INTERPRETER: r"nothing was heard of rank 1 for \d+ s; it was .+",
        MESSAGE: rf"all 2 ranks hang in step {_AT_STEP} for \d+ s.*",
    }[how]
    assert re.fullmatch(who + ": the ranks are replaced", notes[0])
    assert_bitwise_equal(undisturbed.tensors, disturbed.tensors)
    assert [report.epoch for report in disturbed.reports] == list(range(1, _EPOCHS + 1))
    assert (missing, doubled) == (0, 0)
    assert len(disturbed.ledger.seen()) == _EPOCHS * STEPS
    assert 1 <= done_again <= 2 * 7  # a checkpoint's interval, and one that was on its way
    if how == STOPPED:  # it would hold its memory, and a GPU's, for ever
        assert int(mark.with_suffix(".pid").read_text()) not in left
    assert again <= 60


def test_where_the_controller_stands_still_too_the_group_is_made_anew(
    cluster: Cluster, digits: Path, tmp_path: Path, undisturbed: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody replaces a rank that dies then, until the controller is given up: after five minutes, here 15 seconds."""
    monkeypatch.setattr(crew, "_AWAY_S", 15.0)
    folder, killed = tmp_path / "run", []

    def stop_and_kill() -> None:
        while Ledger(folder / "ledger").steps < _AT_STEP:
            time.sleep(0.05)
        awaited(CONTROLLER)[-1].send_signal(signal.SIGSTOP)
        awaited(RANK)[-1].kill()
        killed.append(time.time())

    threading.Thread(target=stop_and_kill, daemon=True).start()
    disturbed = train(cluster, disturbed_experiment(digits, _EPOCHS), folder, 2, max_restarts=1)
    again = disturbed.ledger.next_step_after(killed[0]) or float("inf")
    notes = [note for note in disturbed.notes if note.endswith(": other ranks go on")]
    missing, doubled = disturbed.missing_and_doubled()
    held = again <= 60 and missing == doubled == 0 and len(notes) == 1
    record(
        5,
        f"a rank killed while Ray Train's controller is stopped, which is given up after 15 s (usually 300): training "
        f"again after {again:.0f} s; told: {notes}",
        held=held,
        again_s=round(again, 1),
    )
    assert len(notes) == 1, disturbed.notes
    assert re.fullmatch(
        r"Ray Train's controller has ended \(.* has done nothing for \d+ s\): other ranks go on", notes[0]
    )
    assert_bitwise_equal(undisturbed.tensors, disturbed.tensors)
    assert (missing, doubled) == (0, 0)
    assert not [process for process in processes(CONTROLLER) if process.status() == psutil.STATUS_STOPPED]
    assert again <= 60
