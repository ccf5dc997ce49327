"""Row 8: for a minute no packet gets from one host to another, and neither is told, while a training runs on both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from container import missing
from cut_hosts import EPOCHS, reaches, restarted, submit
from engine import Engine, small_cluster
from injections import record
from laptop import Laptop
from ledger import missing_and_doubled

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1800)]
_CUT_S = 60.0
_ROWS, _STEPS = 1258, 20  # of an epoch
_RAYLET, _MLFLOW = 6380, 5000
# Who does not hear whom, at how many ranks.
_CUTS = {
    "a worker from the head": (("ray-worker-1", "ray-head-1"), _RAYLET, 2),
    "the workers from each other": (("ray-worker-1", "ray-worker-2"), _RAYLET, 2),
    "MLflow from the head": (("ray-head-1", "mlflow-1"), _MLFLOW, 2),
    "the only rank's host from the head": (("the rank's", "ray-head-1"), _RAYLET, 1),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with small_cluster() as engine:
        yield engine


@pytest.fixture(scope="module")
def undisturbed(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], bytes]:
    """The final weights, by number of ranks."""
    laptop = Laptop(engine, tmp_path_factory.mktemp("laptop"))

    @cache
    def weights(ranks: int) -> bytes:
        run = submit(engine, laptop, f"undisturbed-{ranks}", ranks)
        run.wait()
        return run.weights()

    return weights


@pytest.mark.parametrize("what", _CUTS)
def test_a_cut_of_a_minute(engine: Engine, tmp_path: Path, undisturbed: Callable[[int], bytes], what: str) -> None:
    (first, second), port, ranks = _CUTS[what]
    laptop = Laptop(engine, tmp_path)
    run = submit(engine, laptop, f"cut-{list(_CUTS).index(what)}", ranks)
    run.slowly()
    run.wait_for_epoch(3)
    if first == "the rank's":
        first = next(c.name for c in engine.of("ray-worker") if "RayTrainWorker" in c.run("ps", "-eo", "args").stdout)
    one, other = engine.containers[first], engine.containers[second]
    with restarted(engine) as again, ExitStack() as cuts, Follower(laptop, run.job) as follower:
        follower.wait_for("epoch 4/")
        cuts.enter_context(engine.networks.cut("cluster", one.namespace, other.namespace))
        begun = time.time()
        assert not reaches(one, other, port)
        if second == "mlflow-1":  # and the laptop from the cluster: it follows the log
            cuts.enter_context(engine.relays["ray-head-1"].cut())
        time.sleep(max(0.0, begun + _CUT_S - time.time()))
        cuts.close()
        healed = time.time()
        assert reaches(one, other, port) or again
        run.wait()
        follower.wait()
    ledger = run.ledger
    goes_on_s = ledger.next_step_after(begun)
    longest = max(b.at - a.at for p in ledger.processes for a, b in pairwise(p) if p[0].rank == 0)
    lost = missing_and_doubled(ledger.seen(), _ROWS, _STEPS)
    same = run.weights() == undisturbed(ranks)
    states, points = run.points()
    told = states == ["FINISHED"] and points == list(range(1, EPOCHS + 1))
    goes_on = "never stopped" if goes_on_s is None else f"trained again {goes_on_s:.0f} s after its begin"
    record(
        8,
        f"{what} for {_CUT_S:.0f} s: {goes_on}, {ledger.done_again()} steps done again, samples missing and doubled "
        f"{lost}, {'the same' if same else 'OTHER'} weights as undisturbed, in MLflow one run with each epoch once: "
        f"{told}",
        held=same and told and lost == (0, 0),
        goes_on_s=goes_on_s,
        healed_after_s=healed - begun,
        longest_step_s=longest,
        again=ledger.done_again(),
        workers_restarted=again,
        said=[line for line in follower.text().splitlines() if not line.startswith("epoch ")],
    )
    assert follower.code == 0, follower.text()
    assert f"epoch {EPOCHS}/{EPOCHS}" in follower.text()  # also what was printed while it could not be heard
    assert lost == (0, 0)
    assert same
    assert told, (states, points)
    if second == "mlflow-1":
        assert goes_on_s is None, "ranks were replaced though nothing between them was cut"


class Follower:
    """``vitray jobs logs -f`` on the laptop."""

    def __init__(self, laptop: Laptop, job: str) -> None:
        self._laptop, self._job = laptop, job
        self.code: int | None = None
        self._text = ""

    def __enter__(self) -> Follower:
        self._process = self._laptop.start("vitray", "jobs", "logs", "-f", self._job, "--address", self._laptop.ray)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._text += line

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + 120
        while text not in self._text:
            assert time.monotonic() < until, self._text
            time.sleep(0.1)

    def wait(self) -> None:
        self.code = self._process.wait(150)
        self._thread.join()

    def text(self) -> str:
        return self._text

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
