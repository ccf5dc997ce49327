"""Watching a job from afar until it has ended: wait for it, follow its log, stop it. A network may fail meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from queue import Empty, Queue

from vitray.cluster import job_memory
from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_records import Job
from vitray.cluster.job_room import waits_for
from vitray.cluster.jobs import again, last_lines, log_of
from vitray.errors import VitrayError

_POLL_S, _SLOW_POLL_S = 0.2, 1.0
_STREAM_S = 0.3  # between two looks of the cluster at a log that is followed
_AWAY_S = 120.0  # that a dashboard may be out of reach without an end to watching: a cut network, a new head
_TELL_S = 5.0  # after which that is told
_BEGINS_S = 60.0  # for a job to begin, so that it hears that it is stopped
_FIRST_LINE = "\nvitray "  # of vitray.cli.job, when an interrupt reaches it; Ray's own line is before it
Tell = Callable[[str], None]


def now(dashboard: Dashboard, job: Job, *, until: float | None = None, tell: Tell = lambda _: None) -> Job:
    """The job as it is now, from a dashboard that may be out of reach for a while, of which ``tell`` hears.

    Args:
        until: of the monotonic clock, when to give up in any case.

    Raises:
        VitrayError: it did not answer for two minutes. With exit code 1: 2 would seem to be the job's own.
    """
    begun, told = time.monotonic(), False
    while True:
        try:
            found = again(dashboard, job)
            if told:
                tell("the cluster answers again")
            return found
        except VitrayError as error:
            if (lost := _lost(dashboard, job)) is not None:
                return lost
            if not told and time.monotonic() - begun >= _TELL_S:
                told = True
                tell(f"{error.what} ({dashboard.url}); trying for {_AWAY_S:.0f} s, the job may go on meanwhile")
            if time.monotonic() - begun >= _AWAY_S or (until is not None and time.monotonic() >= until):
                what = f"cannot be seen any more: {error.what}"
                remedy = f"the job may go on; look again: vitray jobs status {job.id}"
                raise VitrayError(what, where=job.id, remedy=remedy) from None
        time.sleep(_SLOW_POLL_S)


def _lost(dashboard: Dashboard, job: Job) -> Job | None:
    """The job as lost, if the head is another than the one that took it."""
    try:
        there = dashboard.now()
    except VitrayError:
        return None
    return job_memory.lost_job(there, job.id)


def stop(dashboard: Dashboard, job: Job) -> bool:
    """Ask the job to save a checkpoint and end. False: it had ended already.

    Ray interrupts a job once, and one that is pending in the very moment in which it starts its driver, which may not
    hear it yet and would then be killed. So the job is given up to a minute to begin.
    """
    until = time.monotonic() + _BEGINS_S
    while not (job := now(dashboard, job)).over and not _hears(dashboard, job) and time.monotonic() < until:
        time.sleep(_POLL_S)
    return not job.over and bool(dashboard.post(f"/api/jobs/{job.id}/stop").get("stopped"))


def _hears(dashboard: Dashboard, job: Job) -> bool:
    """Whether an interrupt would reach its driver. Of others' jobs nothing tells but that they run."""
    if job.status == "PENDING" or job.kind is None:
        return job.status != "PENDING"
    return job.driver is not None or _FIRST_LINE in "\n" + _log(dashboard, job)


def wait(dashboard: Dashboard, job: Job, *, timeout_s: float | None = None, tell: Tell) -> Job:
    """Wait for the job's end; ``tell`` hears what it waits for, when that changes.

    Raises:
        VitrayError: it had not ended after ``timeout_s``, or can no longer be seen.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    said, begun = None, time.monotonic()
    while not (job := now(dashboard, job, until=until, tell=tell)).over:
        if until is not None and time.monotonic() >= until:
            remedy = f"wait longer, or look: vitray jobs status {job.id}"
            raise VitrayError(f"is still {job.status.lower()} after {timeout_s:g} s", where=job.id, remedy=remedy)
        if time.monotonic() - begun > _SLOW_POLL_S:
            said = _tell_reason(dashboard, job, said, tell)
        pause = _POLL_S if time.monotonic() - begun < 10 else _SLOW_POLL_S
        time.sleep(pause if until is None else max(0.0, min(pause, until - time.monotonic())))
    return job


def _tell_reason(dashboard: Dashboard, job: Job, said: str | None, tell: Tell) -> str | None:
    """Tell what the job waits for if that is not what was said before."""
    try:
        reason = waits_for(dashboard, job)
    except VitrayError:  # the next look will show whether the dashboard is there
        return said
    if reason and reason != said:
        tell(f"waits for {reason}")
    return reason


def follow(dashboard: Dashboard, job: Job, *, tail: int | None = None, tell: Tell) -> Iterator[str]:
    """What the job prints, as it prints it, until it has ended; ``tell`` hears what it waits for.

    Raises:
        VitrayError: it can no longer be seen.
    """
    while job.node is None and not job.over:
        time.sleep(_POLL_S)
        job = now(dashboard, job, tell=tell)
    log = "" if tail is None and job.node is not None else _log(dashboard, job)
    shown = log if tail is None else last_lines(log, tail)
    if job.node is None:  # it never began
        yield shown
        return
    start = len(log.encode()) - len(shown.encode())  # bytes of the log that nobody asked for
    chunks: Queue[bytes] = Queue()
    reader = threading.Thread(target=_read, args=(dashboard, job, chunks), daemon=True, name="vitray-job-log")
    reader.start()
    at, pending, said, looked, heard = 0, b"", None, 0.0, time.monotonic()
    while True:
        with suppress(Empty):
            chunk = chunks.get(timeout=_POLL_S)
            text, pending = _whole(pending + chunk[max(0, start - at) :])
            at, heard = at + len(chunk), time.monotonic()
            yield text
            continue
        if job.over:
            break
        if time.monotonic() - looked >= _SLOW_POLL_S:
            looked, job = time.monotonic(), now(dashboard, job, tell=tell)
            if not reader.is_alive() and chunks.empty():  # the stream broke off, or never was
                chunks.put(_log(dashboard, job).encode()[at:])
            if not job.over and looked - heard > 3 * _SLOW_POLL_S:
                said = _tell_reason(dashboard, job, said, tell)
    # What was printed last, between the stream's last look and the end.
    yield (pending + _log(dashboard, job).encode()[max(at, start) :]).decode(errors="replace")


def _log(dashboard: Dashboard, job: Job) -> str:
    """As :func:`log_of`; nothing where it cannot be had, as when the job's node is gone."""
    try:
        return log_of(dashboard, job)
    except VitrayError:
        return ""


def _read(dashboard: Dashboard, job: Job, chunks: Queue[bytes]) -> None:
    """Put the log's bytes, from its beginning, as they come; whoever reads them sees to what does not come."""
    asked = {"node_id": job.node, "filename": f"job-driver-{job.id}.log", "lines": -1, "interval": _STREAM_S}
    with suppress(OSError, HTTPException):
        for chunk in dashboard.stream("/api/v0/logs/stream", **asked):
            chunks.put(chunk)


def _whole(pending: bytes) -> tuple[str, bytes]:
    """The text in these bytes, and the beginning of a character that is not complete yet."""
    for cut in range(min(4, len(pending) + 1)):
        try:
            return pending[: len(pending) - cut].decode(), pending[len(pending) - cut :]
        except UnicodeDecodeError:
            continue
    return pending.decode(errors="replace"), b""
