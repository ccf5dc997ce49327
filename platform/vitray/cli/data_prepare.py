"""How ``vitray data prepare`` runs, and what it shows meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from vitray.cluster.address import named_address
from vitray.cluster.machine import Machine

if TYPE_CHECKING:
    from rich.progress import Task

    from vitray.data.mapper import Executor, Mapper
    from vitray.data.prepare import Progress

# On one machine threads are twice as fast as Ray tasks, until there are more cores than one interpreter can feed; and
# with fewer chunks than these (about 30,000 images) they are done before a Ray has started.
_CORES, _CHUNKS = 8, 1000
_SHOWN_AFTER_S = 0.5


def chosen(executor: str, address: str | None) -> Executor:
    """The executor asked for, or for ``auto`` the one that suits; a Ray starts (or is joined) once it is needed."""
    named = named_address(address)
    if executor == "local" and address:
        raise click.UsageError("--address names a Ray cluster, but --executor local runs without one")

    @contextmanager
    def choose(chunks: int) -> Iterator[Mapper]:
        here = Machine.here().cpus <= _CORES or chunks <= _CHUNKS
        if executor == "local" or (executor == "auto" and named is None and here):
            from vitray.data.mapper import Threads

            yield Threads()
            return
        from vitray.cluster.local import connect

        with connect(address):
            from vitray.data.ray_mapper import RayTasks

            yield RayTasks()

    return choose


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar on stderr for each phase, with images a second."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            # A phase of one step has no speed to speak of.
            return Text(f"{speed:,.0f} images/s" if speed and task.elapsed and task.elapsed > _SHOWN_AFTER_S else "")

    columns = (TextColumn("{task.description:>7}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    bars = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def tell(phase: str, done: int, total: int) -> None:
        bars.start()  # not before there is something to show: an early error should stand alone
        if phase not in tasks:
            tasks[phase] = bars.add_task(phase, total=total)
        bars.update(tasks[phase], completed=done, total=total)

    try:
        yield tell
    finally:
        if tasks:
            bars.stop()
