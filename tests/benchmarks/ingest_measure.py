"""One arm of the ingest benchmark in a process of its own: ``python ingest_measure.py ARM WORK`` prints a JSON line."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil
from ingest_work import Arm, Stream, Work

_SETTLE = 2.0  # seconds after a stream that was broken off, so that what was under way is over
_WARM_SECONDS = 2.0  # nothing counts sooner after the first batch: a backlog from before it would

_spent: dict[tuple[int, float], float] = {}  # of every process ever seen, by its number and when it began


@dataclass(frozen=True)
class Measured:
    """What one run of an arm gave.

    Args:
        rate: images/s over all the time that counts.
        epochs: images/s of each epoch in it.
        cold: seconds from asking for a stream to its first batch, imports done, cluster up, nothing else started.
        warm: the same for the process's second stream.
        cpu: CPU-seconds per 1,000 images of the process and all below it: loaders, the whole local cluster.
        others: share of the machine that other processes took meanwhile; a high one spoils ``rate``, not ``cpu``.
    """

    rate: float
    epochs: list[float]
    cold: float
    warm: float
    cpu: float
    others: float


def run(arm: str, work: Work) -> Measured:
    """Measure ``arm`` in a fresh process; nothing of it is left when this returns."""
    return Measured(**fresh(Path(__file__), arm, work.to_json()))


def fresh(script: Path, *arguments: str, timeout: float = 1200) -> dict[str, Any]:
    """The JSON that ``script`` prints last, run in a session of its own that ends with it.

    Raises:
        SystemExit: it failed; with what it said.
    """
    process = subprocess.Popen(
        [sys.executable, str(script.resolve()), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise SystemExit(f"{script.name} {arguments[0]} failed with {process.returncode}:\n{err[-4000:]}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def answer(result: dict[str, Any]) -> NoReturn:
    """What the script of :func:`fresh` ends with."""
    print(json.dumps(result), flush=True)
    sys.stderr.flush()
    os._exit(0)  # loaders that were stopped midway would take their time to end; they end with their parent


def measure(stream: Stream, work: Work) -> Measured:
    cold, warm = _first_batch(stream), _first_batch(stream)
    start = _Mark.now(0)
    marks: list[_Mark] = []
    first, seen = 0.0, 0
    batches = stream(None)
    for batch in batches:
        seen += touch(batch)
        now = time.perf_counter()
        first = first or now
        if not marks:
            if seen >= work.images and now >= first + _WARM_SECONDS:
                marks.append(_Mark.now(seen))
        elif seen >= marks[-1].seen + work.images:
            marks.append(_Mark.now(seen))
            # Broken off midway: the work under way when counting ends equals that when it began.
            if now >= marks[0].at + work.seconds:
                break
    else:
        # A pass with an end of its own is counted whole, its start included: such streams come in great bursts.
        marks = [start, _Mark.now(seen)]
    _close(batches)
    whole = marks[-1] - marks[0]
    return Measured(
        rate=whole.seen / whole.at,
        epochs=[part.seen / part.at for part in (b - a for a, b in itertools.pairwise(marks))],
        cold=cold,
        warm=warm,
        cpu=whole.tree / whole.seen * 1000,
        others=max(0.0, whole.machine - whole.tree) / whole.at / (psutil.cpu_count() or 1),
    )


@dataclass(frozen=True)
class _Mark:
    """A moment of a stream, or the difference of two: clock, rows so far, CPU-seconds of our tree and of all."""

    at: float
    seen: int
    tree: float
    machine: float

    @classmethod
    def now(cls, seen: int) -> _Mark:
        return cls(time.perf_counter(), seen, tree_cpu_seconds(), machine_cpu_seconds())

    def __sub__(self, other: _Mark) -> _Mark:
        return _Mark(self.at - other.at, self.seen - other.seen, self.tree - other.tree, self.machine - other.machine)


def _first_batch(stream: Stream) -> float:
    """Seconds from asking for an epoch to its first batch."""
    start = time.perf_counter()
    batches = stream(1)
    touch(next(iter(batches)))
    seconds = time.perf_counter() - start
    _close(batches)
    time.sleep(_SETTLE)
    return seconds


def touch(batch: Any) -> int:
    """Read a byte of every row, as a consumer at least does; returns the rows (the bare loop sends only those)."""
    if isinstance(batch, int):
        return batch
    int(batch[:, 0, 0, 0].sum())
    return len(batch)


def tree_cpu_seconds() -> float:
    """CPU time of this process and all below it, with what the ended ones had spent when they were last seen.

    Ray's workers come and go, and their time is added to no parent's.
    """
    for process in tree():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            _spent[process.pid, process.create_time()] = times.user + times.system
    return sum(_spent.values())


def machine_cpu_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + times.irq + times.softirq)


def tree() -> list[psutil.Process]:
    here = psutil.Process()
    return [here, *here.children(recursive=True)]


def arms() -> dict[str, Arm]:
    """Every arm by its name; imported late, so that each process loads only what it measures."""
    import ingest_arms
    import ingest_ray
    import ingest_torch

    return {
        "vitray": ingest_arms.vitray,
        "vitray_cached": ingest_arms.vitray_cached,
        "bare": ingest_arms.bare,
        "pil": ingest_torch.pil,
        "decode_image": ingest_torch.decode_image,
        "opencv": ingest_torch.opencv,
        "ray_parquet": ingest_ray.ray_parquet,
        "ray_tuned": ingest_ray.ray_tuned,
        "ray_images": ingest_ray.ray_images,
    }


def _close(batches: Iterator[Any]) -> None:
    close = getattr(batches, "close", None)
    if close is not None:
        close()


def main() -> None:
    name, work = sys.argv[1], Work.from_json(sys.argv[2])
    with contextlib.redirect_stdout(sys.stderr), arms()[name](work) as stream:
        result = measure(stream, work)
    answer(asdict(result))


if __name__ == "__main__":
    main()
