"""The mailbox as a driver and its ranks use it, in plain asyncio: decisions, restarts, ends."""

from __future__ import annotations

import asyncio

import pytest
from mailboxes import ALONE, EXPERIMENT, LOST, eventually, job_of, report, submitted, waiting

from vitray.train.mailbox import Mailbox
from vitray.train.messages import Ended, Job, RankEnd
from vitray.train.report import Report


@eventually
async def test_every_rank_takes_the_job_and_waits_for_the_next_number() -> None:
    box = Mailbox(3)
    assert await box.take(0, 0, 0.01) == "wait"
    early = await waiting(box.take(1, 0, 5))
    number = await box.submit(EXPERIMENT, "/run")
    assert await early == await job_of(box) == Job(number, EXPERIMENT, "/run", attempt=1)
    assert await box.take(0, number, 0.01) == "wait"


@eventually
async def test_a_report_waits_for_the_decision_on_it() -> None:
    box, number = await submitted()
    for step, decision in ((10, True), (20, True), (30, False)):
        answer = await waiting(box.report(number, report(step)))
        said = await box.next(1)
        assert isinstance(said, Report)
        assert said.step == step
        await asyncio.sleep(0.02)
        assert not answer.done()
        await box.decide(decision)
        assert await answer is decision


@eventually
async def test_asking_for_a_report_gives_up_after_a_while() -> None:
    box, number = await submitted()
    assert await box.next(0.01) is None
    answer = await waiting(box.report(number, report(10)))
    assert isinstance(await box.next(5), Report)
    assert await box.next(0.01) is None
    await box.decide(True)
    assert await answer


@eventually
async def test_a_report_replayed_after_a_restart_gets_its_old_answer_and_is_not_passed_on() -> None:
    box, number = await submitted()
    for step in (10, 20):
        answer = await waiting(box.report(number, report(step)))
        await box.next(1)
        await box.decide(True)
        assert await answer
    assert await box.workers_lost(LOST)
    assert (await job_of(box)).attempt == 2
    assert await box.report(number, report(10)) is True
    assert await box.report(number, report(20)) is True
    assert await box.next(0.01) is None
    answer = await waiting(box.report(number, report(30)))
    assert isinstance(await box.next(1), Report)
    await box.decide(False)
    assert await answer is False


@eventually
async def test_a_report_still_undecided_at_the_restart_waits_on_for_the_same_decision() -> None:
    for decision in (True, False):
        box, number = await submitted()
        lost = await waiting(box.report(number, report(10)))
        assert isinstance(await box.next(1), Report)
        assert await box.workers_lost(LOST)
        again = await waiting(box.report(number, report(10)))
        await box.decide(decision)
        assert await again is decision
        assert await lost is decision
        assert await box.next(0.01) is None


@eventually
async def test_ranks_that_come_back_beyond_a_stop_are_stopped_and_the_driver_hears_no_more_of_them() -> None:
    """The checkpoint of the report was whole, the rank died before it heard the decision: it resumes after it."""
    box, number = await submitted()
    await waiting(box.report(number, report(20)))
    await box.next(1)
    await box.workers_lost(LOST)
    await box.decide(False)
    assert await box.report(number, report(10)) is True  # replayed on the way to the stop
    assert await box.report(number, report(20)) is False
    assert await box.report(number, report(30)) is False
    assert await box.next(0.01) is None
    for rank in (0, 1):
        await box.finish(number, RankEnd(rank, 2))
    assert await box.next(0.01) == Ended(None)


@eventually
async def test_a_decision_belongs_to_the_report_that_was_handed_out() -> None:
    """While the driver thinks about a report, ranks that came back may have made the next."""
    box, number = await submitted()
    await waiting(box.report(number, report(10)))
    await box.next(1)
    await box.workers_lost(LOST)
    later = await waiting(box.report(number, report(20)))
    await box.decide(True)
    await asyncio.sleep(0.02)
    assert not later.done()
    assert isinstance(await box.next(1), Report)
    await box.decide(False)
    assert await later is False


@eventually
async def test_a_stop_takes_back_what_was_reported_after_it() -> None:
    box, number = await submitted()
    await waiting(box.report(number, report(10)))
    await box.next(1)
    await box.workers_lost(LOST)
    later = await waiting(box.report(number, report(20)))
    await box.decide(False)
    assert await later is False
    assert await box.next(0.01) is None


@eventually
async def test_a_job_ends_when_all_ranks_are_through() -> None:
    box, number = await submitted()
    for rank in (0, 2):
        await box.finish(number, RankEnd(rank, 3))
        await box.finish(number, RankEnd(rank, 3))  # said twice is done once
    assert await box.next(0.01) is None
    await box.finish(number, RankEnd(1, 3))
    assert await box.next(0.01) == Ended(None)
    assert await box.take(0, 0, 0.01) == "wait"


@eventually
async def test_ranks_that_finished_before_a_restart_must_finish_again() -> None:
    box, number = await submitted()
    await box.finish(number, RankEnd(0, 2))
    await box.workers_lost(LOST)
    await box.finish(number, RankEnd(1, 2))
    assert await box.next(0.01) is None
    await box.finish(number, RankEnd(0, 2))
    assert await box.next(0.01) == Ended(None)


@eventually
async def test_one_job_at_a_time() -> None:
    box, _ = await submitted()
    with pytest.raises(AssertionError, match="one job at a time"):
        await box.submit(EXPERIMENT, "/other")


@eventually
async def test_lost_workers_are_offered_the_job_again_until_their_restarts_are_used_up() -> None:
    box, number = await submitted(max_restarts=2)
    for attempt in (2, 3):
        assert await box.workers_lost(LOST) is True
        job = await job_of(box)
        assert (job.number, job.attempt) == (number, attempt)
    assert await box.workers_lost(LOST) is False
    assert await box.next(0.01) == Ended(LOST)
    assert await box.take(0, 0, 0.01) == "wait"
    # The group serves on, and the next job has restarts of its own.
    await box.submit(EXPERIMENT, "/next")
    assert await box.workers_lost(LOST) is True


@eventually
async def test_a_report_gives_the_restarts_back() -> None:
    box, number = await submitted(max_restarts=1)
    for step in (10, 20, 30):
        assert await box.workers_lost(LOST) is True
        answer = await waiting(box.report(number, report(step)))
        await box.next(1)
        await box.decide(True)
        assert await answer
    assert await box.workers_lost(LOST) is True
    assert await box.report(number, report(30)) is True  # a replay is no progress
    assert await box.workers_lost(LOST) is False


@eventually
async def test_without_restarts_the_first_loss_ends_the_job() -> None:
    box, _ = await submitted(max_restarts=0)
    assert await box.workers_lost(LOST) is False
    assert await box.next(0.01) == Ended(LOST)


@eventually
async def test_workers_that_die_between_jobs_count_too_so_that_a_broken_group_is_noticed() -> None:
    box = Mailbox(max_restarts=1)
    assert await box.workers_lost(LOST) is True
    assert await box.workers_lost(LOST) is False


@eventually
async def test_closing_sends_ranks_home_whatever_they_wait_for() -> None:
    box, number = await submitted()
    idle = await waiting(box.take(1, number, 5))
    undecided = await waiting(box.report(number, report(10)))
    await box.close()
    assert await idle is None
    assert await undecided is False
    assert await box.report(number, report(20)) is False
    assert await box.take(0, 0, 5) is None


@eventually
async def test_progress_is_the_latest_and_begins_anew_with_a_job() -> None:
    box, number = await submitted()
    assert await box.latest_progress() is None
    await box.progress(3, {"train/loss": 2.0})
    await box.progress(4, {"train/loss": 1.0})
    assert await box.latest_progress() == (4, {"train/loss": 1.0})
    await box.fail(number, LOST, ALONE)
    await box.submit(EXPERIMENT, "/next")
    assert await box.latest_progress() is None
