"""How far a stream runs ahead, and that nothing spins while it may not run further."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from vitray.data import lookahead
from vitray.data.lookahead import Lookahead


@dataclass
class Operator:
    """What of Ray Data's operator is looked at."""

    begun: int = 0
    active: int = 0
    metrics: SimpleNamespace = field(default_factory=SimpleNamespace)

    def begin(self, units: int) -> None:
        self.begun += units
        self.metrics.num_tasks_submitted = self.begun

    def num_active_tasks(self) -> int:
        return self.active


@pytest.fixture
def operator() -> Operator:
    made = Operator()
    made.begin(0)
    return made


def test_no_more_units_than_the_limit_are_begun_and_not_taken(operator: Operator) -> None:
    ahead = Lookahead(2)
    assert ahead.allows(operator, new=0, more=True)
    operator.begin(1)
    assert ahead.allows(operator, new=1, more=True)
    other = Operator()  # of another pipeline
    other.begin(1)
    assert not ahead.allows(other, new=1, more=True)  # together they have two
    ahead.take()
    assert ahead.allows(other, new=0, more=True)
    ahead.close()


@pytest.mark.parametrize("more", [True, False])
def test_with_nothing_to_do_it_waits_for_the_rank(
    operator: Operator, more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookahead, "_WAIT_S", 60.0)
    ahead = Lookahead(2)
    operator.begin(2)
    answers: list[bool] = []
    asks = threading.Thread(target=lambda: answers.append(ahead.allows(operator, new=2, more=more)))
    asks.start()
    asks.join(0.2)
    assert asks.is_alive()  # asked once, not again and again
    ahead.take()
    asks.join(30)
    assert answers == [True]
    ahead.close()


def test_while_tasks_run_ray_waits_for_them_itself(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "_WAIT_S", 600.0)  # longer than a test may take
    ahead = Lookahead(2)
    assert ahead.allows(operator, new=0, more=False)  # nothing was begun yet: the units are about to come
    operator.begin(2)
    operator.active = 1
    assert not ahead.allows(operator, new=2, more=True)
    ahead.close()
