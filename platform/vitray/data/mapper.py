"""Many tasks, one function: in threads here, or as Ray Data tasks (:mod:`vitray.data.ray_mapper`).

A :class:`Mapper` gives the results in the order of the jobs, whatever runs when, so nothing can depend on it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from vitray.data.prefetch import ahead
from vitray.errors import DataError, nearest

Job = TypeVar("Job")
Result = TypeVar("Result")


class Mapper(Protocol):
    """Runs a function on many jobs."""

    @property
    def outlives(self) -> bool:
        """Whether tasks may run on for a moment when the iteration is given up."""
        ...

    def map(self, task: Callable[[Job], Result], jobs: Iterable[Job]) -> Generator[Result, None, None]:
        """The results in the order of the jobs, which are taken as room comes up. A task's error is raised here."""
        ...

    def check_shared(self, *, writable: Path | None, readable: Path | None) -> None:
        """Make sure that local folders are the same ones wherever tasks run. Raises DataError with the remedy."""
        ...


Executor = Literal["auto", "local", "ray"] | Callable[[int], AbstractContextManager[Mapper]]
"""``auto`` is Ray where this process is connected to one. A function is told the number of chunks."""


class Threads:
    """Threads of this process: decoding, hashing and file systems work outside the interpreter's lock."""

    outlives = False

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or len(os.sched_getaffinity(0))

    def map(self, task: Callable[[Job], Result], jobs: Iterable[Job]) -> Generator[Result, None, None]:
        yield from ahead(task, iter(jobs), self._workers, 3 * self._workers)

    def check_shared(self, *, writable: Path | None, readable: Path | None) -> None:
        pass  # there is only this machine


def choose(executor: Executor, chunks: int) -> AbstractContextManager[Mapper]:
    """The mapper that ``executor`` means for a source of so many chunks.

    Raises:
        DataError: no such executor.
        ResourceError: Ray was asked for and this process is not connected to one, or no CPU becomes free there.
    """
    if callable(executor):
        return executor(chunks)
    if executor not in ("auto", "local", "ray"):
        raise DataError(
            f"cannot be {executor!r}", where="executor", remedy=nearest(str(executor), ("auto", "local", "ray"))
        )
    if executor == "ray" or (executor == "auto" and _ray_runs()):
        from vitray.data.ray_mapper import RayTasks

        return nullcontext(RayTasks())
    return nullcontext(Threads())


def _ray_runs() -> bool:
    ray: Any = sys.modules.get("ray")  # not imported yet means not connected
    return ray is not None and ray.is_initialized()
