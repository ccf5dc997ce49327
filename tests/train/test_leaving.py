"""Ranks that are asked to leave do so after the same step, however late one of them hears of it."""

from __future__ import annotations

import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.train.leaving import Answer, Leaving, Notice, Vote


def test_a_rank_that_nobody_asks_goes_on() -> None:
    leaving = Leaving()
    leaving.begin(1)
    assert not any(leaving.after(step) for step in range(1, 100))
    assert leaving.left_at is None
    assert not leaving.asked


def test_a_rank_holds_a_step_that_it_has_not_passed() -> None:
    leaving = Leaving()
    leaving.begin(1)
    assert not leaving.after(5)
    assert leaving.hear(Notice(1, 1)) == Answer(1, 5, holds=True)
    assert leaving.hear(Notice(1, 2, step=5)) == Answer(2, 5, holds=False)
    assert leaving.hear(Notice(1, 3, step=7)) == Answer(3, 5, holds=True)
    assert not leaving.after(6)
    leaving.hear(Notice(1, 4, step=7, agreed=True))
    assert leaving.after(7)
    assert leaving.left_at == 7


def test_what_is_said_of_another_job_does_not_count_for_this_one() -> None:
    leaving = Leaving()
    leaving.begin(1)
    assert leaving.hear(Notice(2, 5, step=3)) == Answer(5, -1, holds=True)
    assert not leaving.after(9)
    leaving.begin(2)  # said before it was taken
    leaving.hear(Notice(2, 6, step=3, agreed=True))
    assert not leaving.after(2)
    assert leaving.after(3)
    leaving.begin(3)
    assert not leaving.after(4)


def test_a_rank_that_waits_hears_when_nobody_is_left_to_agree() -> None:
    leaving = Leaving()
    leaving.begin(1)
    leaving.hear(Notice(1, 1, step=1))
    threading.Timer(0.05, leaving.fail, (ConnectionError("the mailbox is dead"),)).start()
    with pytest.raises(ConnectionError, match="is dead"):
        leaving.after(1)


@settings(max_examples=15, deadline=None)
@given(
    ranks=st.integers(1, 4), steps=st.integers(1, 60), asked_after_ms=st.integers(0, 20),
    lag_ms=st.sampled_from([0, 1, 5]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_all_ranks_leave_after_the_same_step(
    ranks: int, steps: int, asked_after_ms: int, lag_ms: int, seed: int
) -> None:
    """Threads in lock step, as DDP's are; each hears of notices late, by its own lag."""
    meet = threading.Barrier(ranks, timeout=20)
    sides = [Leaving() for _ in range(ranks)]
    left: list[int | None] = [-1] * ranks
    vote, lock = Vote(1, 1), threading.Lock()
    over = threading.Event()

    def train(rank: int) -> None:
        side, random_ = sides[rank], random.Random(seed + rank)
        side.begin(1)
        for step in range(1, steps + 1):
            meet.wait()  # the gradients
            time.sleep(random_.random() * 5e-4)
            if side.after(step):
                break
        left[rank] = side.left_at

    def listen(rank: int) -> None:
        time.sleep(asked_after_ms / 1000)
        seen, random_ = 0, random.Random(seed - rank)
        while not over.is_set():
            with lock:
                notice = vote.notice
            if notice.version > seen:
                time.sleep(random_.random() * lag_ms / 1000)
                seen, answer = notice.version, sides[rank].hear(notice)
                with lock:
                    vote.answer(rank, ranks, answer)
            time.sleep(1e-4)

    trainers = [threading.Thread(target=train, args=(rank,)) for rank in range(ranks)]
    listeners = [threading.Thread(target=listen, args=(rank,)) for rank in range(ranks)]
    for thread in trainers + listeners:
        thread.start()
    for thread in trainers:
        thread.join(30)
    over.set()
    for thread in listeners:
        thread.join(5)
    assert not meet.broken
    assert len(set(left)) == 1, left  # all after the same step, or all through before they were to leave
    assert left[0] is None or 1 <= left[0] <= steps
