"""A training on a real cluster whose nodes come and go: with notice, without, and until somebody has had enough."""

from __future__ import annotations

import contextlib
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from ledger import Ledger
from ray_head import Head
from ray_nodes import crash, start_node

from vitray.data import ShardedImages
from vitray.train.checkpoint import committed_in, verify

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]
_CONFIG = """
name: elastic
data: {path: DATA}
model: {patch_size: 2, embed_dim: 32, depth: 2, num_heads: 2}
train: {epochs: 10000, global_batch: 64}
cluster: {workers: [1, 2], use_gpu: false}
"""
_DRIVER = Path(__file__).parent.parent / "faults" / "ledger_driver.py"


def test_nodes_that_come_and_go_change_who_trains_and_nothing_else(tmp_path: Path, digits: Path) -> None:
    (tmp_path / "c.yaml").write_text(_CONFIG.replace("DATA", str(digits)))
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    log = tmp_path / "log"
    head = Head(cpus=1)
    driver: subprocess.Popen[bytes] | None = None

    def wait_for(what: Callable[[str], object]) -> str:
        assert driver is not None
        while not what(log.read_text()):
            assert driver.poll() is None, log.read_text()
            time.sleep(0.1)
        return log.read_text()

    def epochs_after(text: str, some: int = 2) -> Callable[[str], object]:
        return lambda said: text in said and said.rpartition(text)[2].count("epoch ") >= some

    try:
        head.start()
        spot = start_node(head, "spot", "127.0.0.2")
        while "2.0 CPU" not in head.run("ray", "status", "--address", head.address).stdout:
            assert spot.poll() is None
        environment = head.environment(
            VITRAY_HOME=str(tmp_path / "home"), VITRAY_TEST_LEDGER=str(ledger), RAY_ADDRESS=head.address
        )
        with log.open("wb") as file, (tmp_path / "out").open("wb") as out:
            driver = subprocess.Popen(
                [sys.executable, str(_DRIVER), "train", "c.yaml"],
                cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        wait_for(epochs_after("run elastic"))
        spot.send_signal(signal.SIGTERM)  # a spot machine's notice, which Ray makes a drain of 30 seconds
        wait_for(epochs_after("now 1 rank"))
        second = start_node(head, "second", "127.0.0.3")
        wait_for(epochs_after("now 2 ranks"))
        crash(head, "second")
        assert second.wait(30)
        said = wait_for(lambda text: text.count("now 1 rank") == 2 and epochs_after("now 1 rank")(text))
        driver.send_signal(signal.SIGINT)
        assert driver.wait(120) == 130
        assert spot.wait(60) is not None  # it was drained, and has ended by itself
    finally:
        if driver is not None and driver.poll() is None:
            driver.kill()
            driver.wait()
        left = head.stop()
    assert not left

    assert (tmp_path / "out").read_text() == ""  # that is for results, also when a node dies
    said = log.read_text()
    changes = re.findall(r"now (\d) ranks? \(node 127.0.0.(\d) (left|joined)\), from step (\d+)", said)
    assert [change[:3] for change in changes] == [("1", "2", "left"), ("2", "3", "joined"), ("1", "3", "left")], said
    noticed, grown, lost = (int(step) for *_, step in changes)
    saved = int(re.findall(r"step (\d+) is saved", said)[0])
    assert verify(committed_in(tmp_path / "home" / "runs" / "elastic" / "checkpoints")[0]).step == saved

    taken = [step for process in Ledger(ledger).processes for step in process if step.rank == 0]
    times, last = Counter(step.step for step in taken), {step.step: step for step in taken}
    seen = Ledger(ledger).seen()
    order = ShardedImages.open(str(digits)).order("train", global_batch=64, seed=0)
    assert sorted(seen) == list(range(1, saved + 1))
    crashed = next(step for step in range(lost + 1, saved + 2) if times[step] < 2)
    for step, samples in seen.items():
        assert list(samples) == order.step_samples(step - 1).tolist()  # whoever did it, and however often
        assert times[step] == (2 if lost < step < crashed else 1)  # only what a crash took is done again
        assert last[step].size == (2 if step <= noticed or grown < step <= lost else 1)

    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "mlflow.db")) as database:
        tags = dict(database.execute("select key, value from tags"))
        sizes = [value for (value,) in database.execute("select value from metrics where key = 'world_size'")]
        (status,) = database.execute("select status from runs").fetchone()
    assert [tags[f"vitray.ranks.step-{step}"] for step in (noticed, grown, lost)] == [
        line for line in said.splitlines() if line.startswith("now ")
    ]
    assert set(sizes) == {1.0, 2.0}
    assert status == "KILLED"
