"""When ranks count as hanging, from what they say of themselves; and that nothing slow does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from vitray.train.hanging import Watch
from vitray.train.whereabouts import (
    ASKING,
    ENDING,
    EVALUATING,
    FIRST,
    IDLE,
    SAVING,
    STARTING,
    STEP,
    WAITING,
    Pulse,
    Whereabouts,
)

_LIMIT = 20.0


def batches(*sizes: int) -> Iterator[Any]:
    yield from (SimpleNamespace(label=range(size)) for size in sizes)


class Ranks:
    """Two ranks that say what they are told to, every second."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.watch.begin(2)
        self.now = 0.0
        self.pulses = {rank: Pulse(rank, STEP, 57, 0, step_s=0.05, collectives=100) for rank in range(2)}
        self.silent: set[int] = set()
        self.at_work = {0, 1}

    def set(self, rank: int, **values: object) -> None:
        self.pulses[rank] = replace(self.pulses[rank], **values)  # type: ignore[arg-type]

    def run(self, seconds: float, each: Callable[[], None] = lambda: None) -> str | None:
        """The first verdict within so many seconds, and whether it came in time."""
        for _ in range(int(seconds)):
            self.now += 1
            each()
            for rank, pulse in self.pulses.items():
                if rank not in self.silent:
                    self.watch.hear(pulse)
            if (said := self.watch.look(self.now, _LIMIT, self.at_work)) is not None:
                return said
        return None

    def step(self) -> None:
        for rank, pulse in self.pulses.items():
            self.set(rank, moves=pulse.moves + 1)


@pytest.fixture
def ranks() -> Ranks:
    made = Ranks()
    assert made.run(100, made.step) is None
    return made


def test_a_rank_that_says_nothing_hangs_after_the_limit(ranks: Ranks) -> None:
    ranks.silent = {1}
    assert ranks.run(_LIMIT - 2) is None
    assert ranks.run(4) == "nothing was heard of rank 1 for 21 s; it was in step 57"


def test_a_rank_that_was_last_heard_of_before_its_job_is_where_the_others_are(ranks: Ranks) -> None:
    """Stopped within two seconds of its first step, between two of its words."""
    ranks.set(1, doing=IDLE, step=0)
    ranks.run(1)
    ranks.silent = {1}
    ranks.set(0, step=101)
    assert ranks.run(_LIMIT - 2) is None
    assert ranks.run(4) == "nothing was heard of rank 1 for 21 s; it was idle (after step 0)"


def test_a_rank_that_comes_up_is_not_judged_by_one_that_is_idle_yet(ranks: Ranks) -> None:
    ranks.set(0, doing=STARTING, step=0)
    ranks.set(1, doing=IDLE, step=0)
    ranks.run(1)
    ranks.silent = {0}
    assert ranks.run(5 * _LIMIT) is None


def test_ranks_that_stand_still_in_a_step_hang_and_the_one_that_is_behind_is_named(ranks: Ranks) -> None:
    ranks.set(1, collectives=99, line="faults/hook.py:12 in spin")
    assert ranks.run(_LIMIT - 1) is None
    assert ranks.run(3) == "rank 1 hangs in step 57 for 21 s (at faults/hook.py:12 in spin)"


def test_a_collective_that_all_are_in_hangs(ranks: Ranks) -> None:
    assert str(ranks.run(_LIMIT + 2)).startswith("all 2 ranks hang in step 57")


@pytest.mark.parametrize("doing", [WAITING, SAVING, ASKING])
def test_while_one_waits_for_data_or_storage_or_the_driver_nobody_hangs(ranks: Ranks, doing: str) -> None:
    ranks.set(0, doing=doing)
    assert ranks.run(3600) is None


def test_steps_that_take_long_by_themselves_do_not_hang(ranks: Ranks) -> None:
    for rank in range(2):
        ranks.set(rank, step_s=6.0)
    assert ranks.run(59) is None
    assert ranks.run(3) is not None


@pytest.mark.parametrize(("doing", "seconds"), [(STARTING, 600), (FIRST, 600), (EVALUATING, 600), (ENDING, 600)])
def test_a_first_step_an_evaluation_and_an_end_may_take_far_longer_but_not_for_ever(
    ranks: Ranks, doing: str, seconds: float
) -> None:
    ranks.set(0, doing=doing)
    assert ranks.run(seconds - 1) is None
    assert ranks.run(3) is not None


def test_compiling_may_keep_the_interpreter_for_longer_than_a_step(ranks: Ranks) -> None:
    ranks.set(1, doing=FIRST)
    ranks.run(1)
    ranks.silent = {1}
    assert ranks.run(_LIMIT * 10 - 1) is None
    assert ranks.run(3) is not None


def test_ranks_that_are_idle_or_through_are_not_waited_for(ranks: Ranks) -> None:
    for rank in range(2):
        ranks.set(rank, doing=IDLE)
    ranks.at_work = set()
    assert ranks.run(3600) is None


def test_a_rank_that_hangs_is_seen_though_the_other_is_through(ranks: Ranks) -> None:
    ranks.set(0, doing=IDLE)
    ranks.at_work = {1}
    assert str(ranks.run(_LIMIT + 2)).startswith("rank 1 hangs in step 57")


def test_time_in_which_nobody_looked_does_not_count(ranks: Ranks) -> None:
    """A laptop that slept, or a machine that swaps: the ranks did not run either."""
    ranks.now += 3600
    assert ranks.run(10) is None


def test_new_ranks_may_take_long_to_come_up_and_old_ones_are_forgotten(ranks: Ranks) -> None:
    ranks.watch.begin(1)
    ranks.at_work = set()
    ranks.silent = {0, 1}
    assert ranks.run(_LIMIT * 10 - 2) is None
    assert ranks.run(4) is not None


def test_no_limit_means_never(ranks: Ranks) -> None:
    ranks.silent = {0, 1}
    for _ in range(100):
        ranks.now += 1
        assert ranks.watch.look(ranks.now, float("inf"), {0, 1}) is None


def test_a_loop_notes_where_it_is_and_tells_the_line_it_stands_in() -> None:
    where = Whereabouts()
    where.at(STARTING, 0)
    seen = []
    for _ in where.through(batches(16, 16, 10, 16, 10), 5):
        seen.append((where.doing, where.step))
    # The last batch of an epoch is short, and torch.compile compiles anew for it.
    assert seen == [(FIRST, 6), (STEP, 7), (FIRST, 8), (STEP, 9), (STEP, 10)]
    assert where.doing == WAITING
    assert where.step_s < 1
    seen = []
    for _ in where.evaluating(batches(16, 16)):
        seen.append((where.doing, where.step))
    assert seen == [(EVALUATING, 10)] * 2
    assert where.doing == ENDING
    first = where.pulse(0, 3, None)
    assert not first.line
    assert "test_hanging.py" in where.pulse(0, 3, first).line
    where.at(SAVING)
    assert not where.pulse(0, 3, first).line
