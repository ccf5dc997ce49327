"""Tasks of a preparation as a Ray Data job: some jobs a read task, results streamed back in order.

Tasks go out in waves, so that a source of any size has a bounded list of tasks.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from vitray.data.ray_context import PATIENCE_S as _PATIENCE_S
from vitray.data.ray_context import check_room, quiet, read_in_order
from vitray.data.ray_reach import check_readable, check_writable
from vitray.errors import ResourceError, VitrayError

Job = TypeVar("Job")
Result = TypeVar("Result")

TASK_CPUS = 0.5  # tasks wait for storage half of the time, and half a CPU is often left where others work
WAVE = 1024  # tasks
_TOGETHER = 8  # jobs a task at most: a Ray task costs 20 ms whatever it does, and a chunk of small images no more
_ROUNDS = 8  # tasks a CPU at least, so that all of them end at about the same time


class RayTasks:
    """Runs on the Ray that this process is connected to.

    Raises:
        ResourceError: this process is connected to none, or no CPU becomes free there.
    """

    outlives = True

    def __init__(self) -> None:
        if not ray.is_initialized():
            raise ResourceError(
                "this process is not connected to a Ray cluster",
                where="executor",
                remedy="call ray.init() first, or choose the executor 'local'",
            )
        check_room(
            TASK_CPUS,
            what="preparing",
            where="Ray",
            remedy="end what else runs there, wait for it, or prepare with --executor local",
            patience=_PATIENCE_S,
        )

    def map(self, task: Callable[[Job], Result], jobs: Iterable[Job]) -> Generator[Result, None, None]:
        together = 1
        if isinstance(jobs, Sequence):
            together = max(1, min(_TOGETHER, int(len(jobs) / (_ROUNDS * ray.cluster_resources().get("CPU", 1.0)))))
        remaining = iter(jobs)
        tasks = iter(lambda: list(itertools.islice(remaining, together)), [])
        with quiet():
            while wave := list(itertools.islice(tasks, WAVE)):
                yield from _pipeline(task, wave)

    def check_shared(self, *, writable: Path | None, readable: Path | None) -> None:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
        if len(nodes) > 1:
            if writable is not None:
                check_writable(writable, nodes)
            if readable is not None:
                check_readable(readable, nodes)


def _pipeline(task: Callable[[Job], Result], wave: list[list[Job]]) -> Iterator[Result]:
    dataset = read_in_order(_Wave(task, wave), len(wave), num_cpus=TASK_CPUS)
    tables = iter(dataset.iterator().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        for table in tables:
            for outcome in table["outcome"]:
                result = pickle.loads(outcome.as_buffer())
                if isinstance(result, _Failed):
                    raise result.error
                yield result
    finally:
        close = getattr(tables, "close", None)
        if close is not None:
            close()


class _Wave(Datasource):
    """A read task for some jobs; its block holds a pickled result a row."""

    def __init__(self, task: Callable[[Any], Any], wave: list[list[Any]]) -> None:
        super().__init__()
        self._task, self._wave = task, wave

    def get_name(self) -> str:
        return "VitrayPrepare"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                _Outcomes(self._task, jobs),
                BlockMetadata(num_rows=len(jobs), size_bytes=None, exec_stats=None, input_files=None),
            )
            for jobs in self._wave
        ]


class _Failed:
    """An error as a value: raised in a task, Ray would try again and print it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Outcomes:
    """What a read task calls."""

    def __init__(self, task: Callable[[Any], Any], jobs: list[Any]) -> None:
        self._task, self._jobs = task, jobs

    def __call__(self) -> list[pa.Table]:
        results = [pickle.dumps(self._one(job)) for job in self._jobs]
        return [pa.table({"outcome": pa.array(results, pa.large_binary())})]

    def _one(self, job: Any) -> Any:
        try:
            return self._task(job)
        except (VitrayError, OSError) as error:
            return _Failed(error)
