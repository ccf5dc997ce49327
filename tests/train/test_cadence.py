"""How often a run is saved in mid-epoch, with a clock of the test's own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from vitray.errors import ConfigError
from vitray.experiment import TrainConfig
from vitray.train.cadence import Cadence, work_at_risk
from vitray.train.checkpoint import Cost
from vitray.train.ranks import Ranks

COST = Cost(stall_s=0.05, write_s=2.0, cpu_s=0.5)


class Store:
    """What a cadence asks of a store."""

    def __init__(self, cost: Cost | None = COST) -> None:
        self.cost, self.busy = cost, False


class Run:
    """Steps that take as long as is said."""

    def __init__(self, config: TrainConfig, *, per_epoch: int = 10**6, cost: Cost | None = COST) -> None:
        self.now, self.step, self.store = 0.0, 0, Store(cost)
        self.saves: list[tuple[int, float]] = []
        store: Any = self.store
        self.cadence = Cadence(config, Ranks(), store, step=0, per_epoch=per_epoch, clock=lambda: self.now)

    def go(self, steps: int, a_step: float) -> None:
        for _ in range(steps):
            self.step += 1
            self.now += a_step
            if self.cadence.after(self.step):
                self.saves.append((self.step, self.now))
                self.cadence.saved()

    @property
    def gaps(self) -> list[float]:
        times = [0.0, *(now for _, now in self.saves)]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize("a_step", [0.002, 0.3, 7.0, 100.0])
def test_no_more_than_what_is_accepted_is_ever_at_risk(a_step: float) -> None:
    run = Run(TrainConfig(work_at_risk=60))
    run.go(math.ceil(600 / a_step), a_step)
    at_risk = [gap + COST.write_s for gap in run.gaps]  # until the next one is committed
    assert max(at_risk) <= max(60.0, a_step + COST.write_s) + a_step
    assert min(run.gaps) >= min(50.0, a_step) - 1e-6, "and not much oftener"
    assert len(run.saves) >= 5


def test_steps_that_become_slower_are_noticed_before_the_next_save() -> None:
    run = Run(TrainConfig(work_at_risk=60))
    run.go(300, 0.2)
    run.go(300, 2.0)
    assert max(run.gaps[2:]) <= 60
    run = Run(TrainConfig(work_at_risk=60))
    run.go(1, 90.0)  # it compiles
    run.go(1000, 0.1)
    assert run.saves[0][1] <= 91


def test_without_a_word_it_is_as_often_as_pays() -> None:
    """Young and Daly: the longer a save takes, the rarer; the more nodes, the oftener; never more than 1 % of time."""
    assert work_at_risk(None, COST, 1) == pytest.approx(math.sqrt(2 * 0.55 * 86_400))
    assert work_at_risk(None, COST, 4) == pytest.approx(work_at_risk(None, COST, 1) / 2)
    assert work_at_risk(None, COST, 1000) == pytest.approx(0.55 / 0.01)
    assert work_at_risk(None, Cost(1e-3, 0.01, 1e-3), 1) >= 10
    run = Run(TrainConfig())
    run.go(4000, 0.5)
    assert 5 <= len(run.saves) <= 7, "a long epoch is never at risk as a whole"


def test_a_save_that_would_have_to_wait_is_put_off() -> None:
    run = Run(TrainConfig(work_at_risk=20))
    run.store.busy = True
    run.go(400, 0.1)
    assert run.saves == []
    run.store.busy = False
    run.go(10, 0.1)
    assert len(run.saves) == 1


def test_shortly_before_the_end_of_an_epoch_none_is_begun() -> None:
    run = Run(TrainConfig(work_at_risk=20), per_epoch=190)
    run.go(189, 0.1)
    assert run.saves == [], "it would be due at step 180, a second before the end"
    run = Run(TrainConfig(work_at_risk=20), per_epoch=220)
    run.go(219, 0.1)
    assert [step for step, _ in run.saves] == [180]


def test_explicit_steps_are_those_and_need_no_clock() -> None:
    run = Run(TrainConfig(checkpoint_steps=7))
    run.go(30, 1000.0)
    assert [step for step, _ in run.saves] == [7, 14, 21, 28]
    assert not run.cadence.overdue


def test_both_rules_are_refused_and_the_earlier_name_is_understood() -> None:
    with pytest.raises(ConfigError, match="both say when to make checkpoints; set one of them"):
        TrainConfig(checkpoint_steps=7, work_at_risk=30)
    with pytest.raises(ConfigError, match="both say when"):
        TrainConfig(checkpoint_steps=7, work_at_risk="auto")
    assert TrainConfig.model_validate({"keep_checkpoints": 5}).keep_last == 5
