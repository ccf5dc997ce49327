"""How a job fails in the mailbox, and whether the ranks can go on with the next."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mailboxes import ALONE, EXPERIMENT, LOST, eventually, job_of, report, submitted, waiting

from vitray.errors import CodeError, HangingError, OutOfMemoryError, TrainingError
from vitray.train.mailbox import Mailbox
from vitray.train.messages import Ended, Heard, Note, RankEnd
from vitray.train.report import Report


@eventually
async def test_a_failure_ends_the_job_once_and_frees_the_rank_that_reports() -> None:
    box, number = await submitted()
    answer = await waiting(box.report(number, report(10)))
    first, second = TrainingError("NaN"), TrainingError("also NaN")
    await box.fail(number, first, ALONE)
    await box.fail(number, second, ALONE)
    assert await answer is False
    assert isinstance(await box.next(0.01), Report)
    assert await box.next(0.01) == Ended(first)
    assert await box.next(0.01) is None
    assert await box.take(0, 0, 0.01) == "wait"


@eventually
async def test_what_ranks_of_an_ended_job_still_say_does_not_touch_the_next() -> None:
    box, first = await submitted()
    await box.fail(first, TrainingError("NaN"), ALONE)
    assert isinstance(await box.next(0.01), Ended)
    second = await box.submit(EXPERIMENT, "/next")
    assert second > first
    assert await box.report(first, report(10)) is False
    await box.fail(first, TrainingError("late"), ALONE)
    await box.finish(first, RankEnd(0, 2))
    await box.finish(second, RankEnd(1, 2))
    assert await box.next(0.01) is None
    assert (await job_of(box, after=first)).run_dir == "/next"
    await box.finish(second, RankEnd(0, 2))
    assert await box.next(0.01) == Ended(None)


@eventually
async def test_a_rank_that_was_cut_off_and_comes_back_has_no_say_in_the_attempt_of_others() -> None:
    box, number = await submitted()
    old = await job_of(box)
    await box.workers_lost(LOST)
    new = await job_of(box)
    assert new.attempt > old.attempt
    assert await box.report(number, report(10), old.attempt) is False
    await box.finish(number, RankEnd(0, 1, attempt=old.attempt))
    assert (
        await box.fail(number, TrainingError("a newer attempt has begun"), RankEnd(0, 1, attempt=old.attempt)) is False
    )
    assert await box.next(0.01) is None
    answer = await waiting(box.report(number, report(10), new.attempt))
    assert isinstance(await box.next(0.01), Report)
    await box.decide(True)
    assert await answer is True
    await box.finish(number, RankEnd(0, 1, attempt=new.attempt))
    assert await box.next(0.01) == Ended(None)


@eventually
async def test_ranks_that_fail_at_one_place_can_go_on_and_the_first_says_why() -> None:
    box, number = await submitted()
    first = asyncio.ensure_future(box.fail(number, CodeError("a"), RankEnd(1, 2, collectives=7)))
    await asyncio.sleep(0.02)
    assert await box.next(0.01) is None
    assert await box.fail(number, CodeError("b"), RankEnd(0, 2, collectives=7)) is True
    assert await first is True
    said = await box.next(0.01)
    assert isinstance(said, Ended)
    assert str(said.error) == "a"
    await box.submit(EXPERIMENT, "/next")
    assert (await job_of(box, after=number)).run_dir == "/next"


@eventually
@pytest.mark.parametrize("collectives", [None, 8])
async def test_a_rank_that_fails_where_others_do_not_must_end_and_the_next_job_waits_for_the_new_ranks(
    collectives: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the other rank says nothing, or left the job at another place."""
    monkeypatch.setattr("vitray.train.mailbox._TOGETHER_S", 0.05)
    box, number = await submitted(max_restarts=0)
    if collectives is not None:
        await box.finish(number, RankEnd(0, 2, collectives))
    wrong = CodeError("only here")
    assert await box.fail(number, wrong, RankEnd(1, 2, collectives=7)) is False
    assert await box.next(0.01) == Ended(wrong)
    number = await box.submit(EXPERIMENT, "/next")
    assert await box.take(0, 0, 0.01) == "wait"
    assert await box.workers_lost(LOST) is True  # as was wanted: no restart of the next job's
    assert (await job_of(box)).attempt == 1
    assert await box.workers_lost(LOST) is False
    assert await box.next(0.01) == Ended(LOST)


@eventually
async def test_ranks_that_die_while_one_fails_do_not_stop_the_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitray.train.mailbox._TOGETHER_S", 0.1)
    box, number = await submitted(max_restarts=0)
    wrong = CodeError("only here")
    failing = await waiting(box.fail(number, wrong, RankEnd(1, 2, collectives=7)))
    assert await box.workers_lost(LOST) is True
    assert await failing is False
    assert await box.next(0.01) == Ended(wrong)
    await box.submit(EXPERIMENT, "/next")
    assert (await job_of(box, after=number)).run_dir == "/next"


@eventually
async def test_ranks_that_died_for_want_of_memory_are_not_sent_into_the_same_again() -> None:
    box, _ = await submitted(max_restarts=3)
    reason = OutOfMemoryError("its node ran out of memory")
    assert await box.workers_lost(reason) is True
    assert await box.next(0.01) == Ended(reason)


class Hanging:
    """A watch that says so."""

    def __init__(self, *said: str | None) -> None:
        self._said = list(said)

    def begin(self, ranks: int) -> None: ...

    def look(self, now: float, limit_s: float, at_work: Any) -> str | None:
        return self._said.pop(0)


@eventually
async def test_ranks_that_hang_are_replaced_and_people_hear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitray.train.mailbox.Watch", lambda: Hanging(None, "rank 1 hangs", "rank 1 hangs"))
    box, _ = await submitted(max_restarts=1)
    await job_of(box)
    assert await box.hangs() is False
    assert await box.hangs() is True
    assert await box.next(0.01) == Note("rank 1 hangs: the ranks are replaced")
    assert await box.take(1, 0, 0.01) == "wait"  # not the old ones
    await box.starting()
    assert (await job_of(box)).attempt == 2
    assert await box.hangs() is True
    assert isinstance(await box.next(0.01), Note)
    ended = await box.next(0.01)  # that was once too often
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, HangingError)


@eventually
async def test_a_mailbox_that_takes_over_passes_on_only_what_its_driver_has_not_heard() -> None:
    box = Mailbox(max_restarts=3)
    number = await box.submit(EXPERIMENT, "/run", None, 2, Heard(step=20, decided=10, losses=1, attempt=2))
    assert (await job_of(box)).attempt == 2
    assert await box.report(number, report(10)) is True  # it has been decided
    again = await waiting(box.report(number, report(20)))  # it has been heard, but not answered
    assert await box.next(0.01) is None
    await box.decide(True)
    assert await again is True
    asked = await waiting(box.report(number, report(30)))
    assert isinstance(await box.next(0.01), Report)
    await box.decide(False)
    assert await asked is False


@eventually
async def test_a_mailbox_that_takes_over_knows_of_a_stop_and_of_the_losses() -> None:
    box = Mailbox(max_restarts=1)
    number = await box.submit(EXPERIMENT, "/run", None, None, Heard(step=20, decided=20, stopped=True, losses=1))
    assert await box.report(number, report(20)) is False
    assert await box.workers_lost(LOST) is False
    assert await box.next(0.01) == Ended(LOST)


@eventually
async def test_losses_between_which_the_run_gets_on_are_not_in_a_row() -> None:
    """Epochs of hours, a checkpoint in between: each time ranks begin at a newer one, restarts are counted anew."""
    box, number = await submitted(max_restarts=1)
    for step in (0, 40, 80, 120):
        await job_of(box)
        await box.begin(number, step, 1)
        assert await box.workers_lost(LOST) is True
    await job_of(box)
    await box.begin(number, 120, 1)
    assert await box.workers_lost(LOST) is False, "twice from the same checkpoint"


@eventually
async def test_ranks_that_come_where_others_were_sent_away_take_the_next_job() -> None:
    """A rank failed alone while its node was about to go: the ranks were replaced for the node, not for the rank."""
    box, number = await submitted()
    await box.take(0, 0, 0.01)
    await box.take(1, 0, 0.01)
    assert await box.vacate() is False
    assert await box.fail(number, CodeError("a"), RankEnd(0, 2, collectives=3)) is False
    assert await box.vacate() is True
    await box.starting()
    await box.started("", 2)
    await box.submit(EXPERIMENT, "/next")
    assert (await job_of(box, after=number)).run_dir == "/next"
