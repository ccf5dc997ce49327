"""Row 2: SIGKILL of the driver ten times during a sweep, and `vitray sweep resume` each time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from injections import record
from sweep_drivers import SweepDriver, recomputed, results
from tracked import Tracked

from vitray.tracking.registry import list_models
from vitray.tune.record import TrialRecord

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(3600)]
_SEED, _EPOCHS, _TRIALS = 2, 14, 8
_CONFIG = f"""
name: mortal
data: {{path: ds, augment: {{shift: 1}}}}
model: {{patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2, dropout: 0.1}}
train: {{epochs: {_EPOCHS}}}
cluster: {{use_gpu: false}}
search:
  space: {{optim.lr: {{log: [0.001, 0.004]}}, model.depth: [1, 2]}}
  trials: {_TRIALS}
  concurrent: 2
  scheduler: none
tracking: {{experiment: mortal}}
"""
Moment = Callable[[SweepDriver, random.Random], bool]


def starting(driver: SweepDriver, chance: random.Random) -> bool:
    """At any time while Python, Ray and the groups come up."""
    until = driver.started_at + chance.uniform(0.3, 15)
    return driver.until(lambda: time.time() > until)


def reporting(driver: SweepDriver, chance: random.Random) -> bool:
    """In the instant of a report, or some milliseconds after it."""
    return _events(driver, "report", chance.randint(1, 12)) and _a_moment(driver, chance.uniform(0, 0.05))


def between(driver: SweepDriver, chance: random.Random) -> bool:
    """When a trial has ended, and its group takes the next."""
    return _events(driver, "end", 1) and _a_moment(driver, chance.uniform(0, 0.3))


def retraining(driver: SweepDriver, chance: random.Random) -> bool:
    return driver.until(lambda: _final(driver).epoch > 2) and _a_moment(driver, chance.uniform(0, 0.5))


def promoting(driver: SweepDriver, chance: random.Random) -> bool:
    """While the winner is measured, drawn and registered."""
    return driver.until(lambda: _final(driver).ended) and _a_moment(driver, chance.uniform(0, 1.5))


def _events(driver: SweepDriver, kind: str, more: int) -> bool:
    def count() -> int:
        return sum(event["event"] == kind for event in driver.ledger())

    before = count()
    return driver.until(lambda: count() >= before + more)


def _a_moment(driver: SweepDriver, seconds: float) -> bool:
    until = time.time() + seconds
    return driver.until(lambda: time.time() > until)


def _final(driver: SweepDriver) -> TrialRecord:
    return next((r for r in driver.records() if r.kind == "final"), TrialRecord(-1, "", {}))


MOMENTS: tuple[Moment, ...] = (
    starting, reporting, between, starting, reporting, between, starting, reporting, retraining, promoting,
)  # fmt: skip


@pytest.fixture
def drivers(tmp_path: Path, digits: Path) -> Iterator[Callable[[str], SweepDriver]]:
    made: list[SweepDriver] = []

    def new(name: str) -> SweepDriver:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "ds").symlink_to(digits)
        (folder / "mortal.yaml").write_text(_CONFIG)
        made.append(SweepDriver(folder, "mortal"))
        return made[-1]

    yield new
    for driver in made:
        driver.end()


def finished(driver: SweepDriver) -> None:
    driver.start()
    assert driver.process is not None
    assert driver.process.wait(900) == 0, driver.log.read_text()


def test_ten_kills_of_the_driver_lose_nothing(drivers: Callable[[str], SweepDriver]) -> None:
    peace = drivers("peace")
    finished(peace)
    trouble, chance, kills = drivers("trouble"), random.Random(_SEED), list[str]()
    for moment in MOMENTS:
        trouble.start()
        assert moment(trouble, chance), f"it ended before {moment.__name__}:\n{trouble.log.read_text()}"
        assert trouble.kill()
        kills.append(moment.__name__)
    finished(trouble)
    assert not trouble.left()

    before, after = peace.records(), trouble.records()
    assert all(r.ended and r.failure is None for r in after)
    again = {r.name: recomputed(trouble.sweep, r) for r in after}
    most = max(again[r.name] / max(1, len(r.spans) - 1) for r in after)  # a kill
    wrong = Tracked.of(trouble.home.tracking_uri, "mortal").wrong("mortal", after)
    same_points = [dict(r.point) for r in before] == [dict(r.point) for r in after]
    same_results = [results(r) for r in before] == [results(r) for r in after]
    versions = [version.aliases for version in list_models(trouble.home.tracking_uri)]
    held = len(kills) == 10 and most <= 1 and not wrong and same_points and same_results
    held &= versions == [("champion",)]
    outcome = f"{len(kills)} kills: {len(after)} trials, {'one run each' if not wrong else wrong[0]}, none RUNNING; "
    outcome += f"{sum(again.values())} of {sum(len(r.reports) for r in after)} reported epochs trained again, at most "
    outcome += f"{most:.0f} a trial and kill; points {'the same' if same_points else 'NOT the same'}, every metric "
    outcome += "bitwise equal to the undisturbed sweep's" if same_results else "NOT equal to the undisturbed sweep's"
    record(2, outcome, held=held, kills=kills, again=sum(again.values()), spans=[len(r.spans) for r in after])
    assert not wrong
    assert most <= 1, again
    assert same_points
    assert same_results
    assert versions == [("champion",)]
    assert sum(len(r.spans) for r in after) > len(after), "some trial was hit"
