"""The mailbox as tests use it: plain asyncio, a job in it, a call that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from vitray.errors import LostWorkersError
from vitray.experiment import Experiment
from vitray.train.mailbox import Mailbox
from vitray.train.messages import Job, RankEnd
from vitray.train.report import Report

EXPERIMENT = Experiment(data={"path": "x"})
LOST = LostWorkersError("lost rank 1")
ALONE = RankEnd(0, 1)
Result = TypeVar("Result")


def eventually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test; one that waits for ever fails."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 10))

    return run


def report(step: int) -> Report:
    return Report(step, step // 10, {"train/loss": 1.0})


async def waiting(call: Awaitable[Result]) -> asyncio.Task[Result]:
    """Start a call, and see that it does not return by itself."""
    task: asyncio.Task[Result] = asyncio.ensure_future(call)  # type: ignore[arg-type]
    await asyncio.sleep(0.02)
    assert not task.done()
    return task


async def submitted(max_restarts: int = 3) -> tuple[Mailbox, int]:
    box = Mailbox(max_restarts)
    return box, await box.submit(EXPERIMENT, "/run")


async def job_of(box: Mailbox, rank: int = 0, after: int = 0) -> Job:
    job = await box.take(rank, after, 0.01)
    assert isinstance(job, Job)
    return job
