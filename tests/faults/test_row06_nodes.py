"""Row 6: nodes are killed, raylet and all, and others come: how much of the time a training gets on.

The nodes share one machine here: an emulation, in which a dead node's connections break at once, as a killed process's
do and a cut cable's do not (row 8 has that).
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from goodput import goodput
from injections import record
from killed_nodes import CONFIG, train_while_nodes_die
from ledger import Ledger

from vitray.data import ShardedImages

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1800)]
GOODPUT, RECOVERY_S = 0.85, 45.0
EVERY_S = 120.0
_DRIVER = str(Path(__file__).parent / "ledger_driver.py")


@pytest.mark.parametrize(("workers", "kills"), [("2", 5), ("[1, 2]", 1)], ids=["fixed", "elastic"])
def test_nodes_die_every_two_minutes(tmp_path: Path, digits: Path, workers: str, kills: int) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.replace("DATA", str(digits)).replace("WORKERS", workers))
    command = [_DRIVER, "train", "c.yaml"]
    outcome = train_while_nodes_die(tmp_path, command, kills=kills, every_s=EVERY_S, VITRAY_TEST_PATIENCE="1")
    ledger = Ledger(tmp_path / "ledger")
    done = goodput([process for process in ledger.processes if process[0].rank == 0])
    recoveries = [ledger.next_step_after(killed) for killed in outcome.killed]
    assert None not in recoveries, outcome.log
    slowest = max(recoveries)  # of five, the 95th percentile
    order = ShardedImages.open(str(digits)).order("train", global_batch=64, seed=0)
    interval = order.steps_per_epoch  # each epoch ends with a checkpoint
    held = done.share >= GOODPUT and slowest <= RECOVERY_S and max(done.again) <= interval
    record(
        6,
        f"{'two ranks' if workers == '2' else 'one or two ranks'}, a node killed every {EVERY_S:.0f} s ({kills}x): "
        f"goodput {done.share:.3f}, recovery {statistics.median(recoveries):.0f} s (median), {slowest:.0f} s "
        f"(slowest), at most {max(done.again)} steps done again (a checkpoint every {interval})",
        held=held,
        goodput=done.share,
        recoveries_s=recoveries,
        again=done.again,
        wall_s=done.wall_s,
    )
    assert outcome.code is None, outcome.log  # it went on by itself
    seen = ledger.seen()
    whole = sorted(seen)[:-1]  # of the last step perhaps not all ranks wrote
    assert whole == list(range(1, len(whole) + 1))
    assert [step for step in whole if list(seen[step]) != order.step_samples(step - 1).tolist()] == []
    assert max(done.again) <= interval
    assert slowest <= RECOVERY_S, (recoveries, outcome.log)
    assert done.share >= GOODPUT, (done, recoveries)
