"""The mailbox when ranks are to leave: a stop that saves, ranks that make room for others, and what people are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mailboxes import ALONE, LOST, eventually, job_of, report, submitted, waiting

from vitray.errors import CheckpointError
from vitray.train.leaving import Answer, Notice
from vitray.train.mailbox import Mailbox
from vitray.train.messages import Ended, Note, RankEnd


async def leave_after(box: Mailbox, done: dict[int, int]) -> int:
    """Ranks that have done so many steps hear of the notice, and all hold; the step they agree on."""
    answers: dict[int, Answer | None] = dict.fromkeys(done)
    seen = 0
    while True:
        said: list[Any] = await asyncio.gather(*(box.listen(rank, len(done), answers[rank], seen, 5) for rank in done))
        notice = said[0]
        assert isinstance(notice, Notice)
        assert all(other == notice for other in said)
        if notice.agreed:
            assert notice.step is not None
            return notice.step
        seen = notice.version
        answers = {rank: Answer(seen, step, holds=True) for rank, step in done.items()}


@eventually
async def test_a_stop_has_all_ranks_leave_after_one_step_and_says_what_is_saved() -> None:
    box, number = await submitted()
    for rank in (0, 1):
        await job_of(box, rank)
    assert await box.stop() >= 20
    step = await leave_after(box, {0: 7, 1: 6})
    assert step == 8  # after the one that the first is in
    await box.left(number, RankEnd(0, 2, 5), step)
    assert await box.next(0.01) is None
    await box.left(number, RankEnd(1, 2, 5), step)
    assert await box.next(1) == Ended(saved_step=8)


@eventually
async def test_a_stop_where_nobody_is_at_work_is_at_once() -> None:
    box, _ = await submitted()
    await box.stop()
    assert await box.next(1) == Ended()
    assert await box.take(0, 0, 0.01) == "wait"


@eventually
async def test_a_stop_after_a_loss_names_no_step_of_before() -> None:
    box, number = await submitted()
    await job_of(box)
    await box.vacate()
    step = await leave_after(box, {0: 3})
    await box.left(number, ALONE, step)
    await box.starting()
    await job_of(box)
    await box.workers_lost(LOST)  # what has been saved since, the mailbox does not know
    await box.stop()
    assert await box.next(1) == Ended(saved_step=None)


@eventually
async def test_a_report_that_is_due_at_a_stop_is_handed_out_and_is_the_end() -> None:
    box, number = await submitted()
    await job_of(box)
    await box.stop()
    due = report(10)
    assert await box.report(number, due) is False
    await box.finish(number, ALONE)
    assert await box.next(1) == due
    assert await box.next(1) == Ended(saved_step=10)


@eventually
async def test_a_rank_that_waits_for_a_decision_hears_of_a_stop() -> None:
    box, number = await submitted()
    await job_of(box)
    asked = await waiting(box.report(number, report(10)))
    await box.stop()
    assert await asked is False


@eventually
async def test_ranks_that_make_room_leave_their_job_to_others() -> None:
    box, number = await submitted()
    await job_of(box)
    assert await box.vacate() is False
    step = await leave_after(box, {0: 20})
    await box.left(number, ALONE, step)
    assert await box.vacate() is True
    assert await box.take(0, number, 0.01) == "wait"  # not for those that are there
    assert await box.take(0, 0, 0.01) == "wait"
    await box.starting()
    await box.started("node 10.0.0.3 joined", 1)
    for rank in (0, 1):
        job = await job_of(box, rank)
        assert (job.number, job.attempt) == (number, 2)
    await box.begin(number, step, 2)
    assert await box.next(1) == Note(f"now 2 ranks (node 10.0.0.3 joined), from step {step}", step)
    await box.finish(number, RankEnd(0, 2))
    await box.finish(number, RankEnd(1, 2))
    assert await box.next(1) == Ended()


@eventually
async def test_ranks_without_a_job_are_out_at_once_and_take_none() -> None:
    box = Mailbox(3)
    assert await box.vacate() is True
    number = await box.submit((await submitted())[0]._of_job().job.experiment, "/run")
    assert await box.take(0, 0, 0.01) == "wait"
    await box.starting()
    assert (await job_of(box)).number == number


@eventually
async def test_a_node_that_dies_when_its_ranks_have_left_costs_no_restart() -> None:
    box, number = await submitted(max_restarts=0)
    await job_of(box)
    await box.vacate()
    await box.left(number, ALONE, await leave_after(box, {0: 3}))
    assert await box.workers_lost(LOST) is True
    await box.starting()
    assert (await job_of(box)).attempt == 2


@eventually
async def test_ranks_that_die_before_they_have_left_end_a_stop() -> None:
    box, _ = await submitted()
    await job_of(box)
    await box.stop()
    await box.workers_lost(LOST)
    assert await box.next(1) == Ended()


@eventually
async def test_a_stop_between_two_sets_of_ranks_says_what_the_first_saved() -> None:
    box, number = await submitted()
    await job_of(box)
    await box.vacate()
    step = await leave_after(box, {0: 3})
    await box.left(number, ALONE, step)
    await box.stop()
    assert await box.next(1) == Ended(saved_step=step)


@eventually
async def test_a_group_that_closes_wants_no_other_ranks() -> None:
    box, _ = await submitted()
    await job_of(box)
    listening = await waiting(box.listen(0, 1, None, 0, 5))
    await box.close()
    assert await listening is None
    with pytest.raises(RuntimeError, match="closes"):
        await box.vacate()
    assert await box.note("waiting for nodes") is False


@eventually
async def test_ranks_that_cannot_save_when_they_make_room_cost_what_a_dead_node_costs() -> None:
    """Storage is away for a minute, and a node joins: the run goes on, from its newest checkpoint."""
    box, number = await submitted()
    await job_of(box)
    await box.vacate()
    unsaved = CheckpointError("the checkpoint of step 7 cannot be saved")
    assert await box.fail(number, unsaved, ALONE) is False, "the rank has to end"
    assert await box.workers_lost(LOST) is True
    await box.starting()
    assert (await job_of(box)).attempt == 2


@eventually
async def test_a_stop_that_cannot_save_says_so() -> None:
    box, number = await submitted()
    await job_of(box)
    await box.stop()
    unsaved = CheckpointError("the checkpoint of step 7 cannot be saved")
    await box.fail(number, unsaved, ALONE)
    assert await box.next(0.01) == Ended(unsaved)
