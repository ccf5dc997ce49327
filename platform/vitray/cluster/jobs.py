"""Jobs on a cluster: submit, look, follow, stop, wait. The verbs of `vitray jobs`."""

from __future__ import annotations

import re
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, Queue

from vitray import __version__
from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_package import Package, of_texts, of_vitray, send
from vitray.cluster.job_records import Job, named, newest_first
from vitray.cluster.job_request import Request
from vitray.cluster.job_room import waits_for
from vitray.cluster.job_secrets import refuse_secrets
from vitray.errors import VitrayError
from vitray.masking import public

DRIVER = ("python", "-m", "vitray.cli.job")
_POLL_S, _SLOW_POLL_S = 0.2, 1.0
_STREAM_S = 0.3  # between two looks of the cluster at a log that is followed
_TOLD_EVERY_S = 30.0
_GOES_ON = re.compile(r"go on with: vitray (train --resume|sweep resume) (\S+)")
_BEGAN = re.compile(r"^(?:\[ *\d+ s\] )?(?:run|sweep) (\S+): .*?\bstate in\b", re.M | re.S)


@dataclass(frozen=True)
class Submitted:
    """``sent``: each package, and whether the cluster lacked it."""

    id: str
    sent: list[tuple[Package, bool]]


def submit(dashboard: Dashboard, request: Request, *, installed: bool = False) -> Submitted:
    """Hand a job to the cluster. ``installed``: it runs the cluster's own vitray, not this one.

    Raises:
        ConfigError: what is sent is too large, or would show a credential.
        VitrayError: the cluster does not take it.
    """
    entrypoint = shlex.join([*DRIVER, *request.words])
    refuse_secrets({"the job's command": shlex.join(request.words), "--name": request.name, **request.metadata})
    packages = [of_texts("config", request.files)] if request.files else []
    if not installed:
        packages.append(of_vitray())
    sent = [(package, send(dashboard, package)) for package in packages]
    environment: dict[str, object] = {"env_vars": request.variables}
    if request.files:
        environment["working_dir"] = packages[0].uri
    if not installed:
        environment["py_modules"] = [packages[-1].uri]
    number = "-".join(filter(None, (request.kind, _slug(request.name), secrets.token_hex(3))))
    metadata = {"vitray.kind": request.kind, "vitray.name": request.name, "vitray.version": __version__}
    asked = {
        "entrypoint": entrypoint,
        "submission_id": number,
        "runtime_env": environment,
        "metadata": {**metadata, **request.metadata},
    }
    said = dashboard.post("/api/jobs/", asked)
    return Submitted(said["submission_id"], sent)


def _slug(text: str) -> str:
    """Letters, digits and dashes of a name, for an id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def jobs(dashboard: Dashboard) -> list[Job]:
    """All submitted jobs, newest first."""
    return newest_first(dashboard.get("/api/jobs/"))


def find(dashboard: Dashboard, wanted: str) -> Job:
    """See :func:`vitray.cluster.job_records.named`."""
    return named(jobs(dashboard), wanted)


def again(dashboard: Dashboard, job: Job) -> Job:
    """The job as it is now."""
    return Job.of(dashboard.get(f"/api/jobs/{job.id}"))


def log_of(dashboard: Dashboard, job: Job, *, tail: int | None = None) -> str:
    """What the job has printed so far; the last ``tail`` lines of it."""
    text: str = dashboard.get(f"/api/jobs/{job.id}/logs")["logs"]
    return text if tail is None else "".join(text.splitlines(keepends=True)[-tail:] if tail else ())


def stop(dashboard: Dashboard, job: Job) -> bool:
    """Ask the job to save a checkpoint and end. False: it had ended already."""
    return not job.over and bool(dashboard.post(f"/api/jobs/{job.id}/stop").get("stopped"))


def wait(dashboard: Dashboard, job: Job, *, timeout_s: float | None = None, tell: Callable[[str], None]) -> Job:
    """Wait for the job's end; ``tell`` hears what it waits for, when that changes.

    Raises:
        VitrayError: it had not ended after ``timeout_s``.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    said, begun = None, time.monotonic()
    while not (job := again(dashboard, job)).over:
        if until is not None and time.monotonic() >= until:
            remedy = f"wait longer, or look: vitray jobs status {job.id}"
            raise VitrayError(f"is still {job.status.lower()} after {timeout_s:g} s", where=job.id, remedy=remedy)
        if time.monotonic() - begun > _SLOW_POLL_S and (reason := waits_for(dashboard, job)) != said:
            said = reason
            if reason:
                tell(f"waits for {reason}")
        pause = _POLL_S if time.monotonic() - begun < 10 else _SLOW_POLL_S
        time.sleep(pause if until is None else max(0.0, min(pause, until - time.monotonic())))
    return job


def follow(dashboard: Dashboard, job: Job, *, tail: int | None = None, tell: Callable[[str], None]) -> Iterator[str]:
    """What the job prints, as it prints it, until it has ended; ``tell`` hears what it waits for."""
    while job.node is None and not job.over:
        time.sleep(_POLL_S)
        job = again(dashboard, job)
    if job.node is None:  # it never began
        yield log_of(dashboard, job, tail=tail)
        return
    chunks: Queue[bytes] = Queue()
    reader = threading.Thread(target=_read, args=(dashboard, job, tail, chunks), daemon=True, name="vitray-job-log")
    reader.start()
    shown, pending, said, looked, heard = 0, b"", None, 0.0, time.monotonic()
    while True:
        try:
            pending += chunks.get(timeout=_POLL_S)
            text, pending = _whole(pending)
            shown += len(text.encode())
            heard = time.monotonic()
            yield text
            continue
        except Empty:
            pass
        if job.over:
            break
        if time.monotonic() - looked >= _SLOW_POLL_S:
            looked, job = time.monotonic(), again(dashboard, job)
            if not reader.is_alive() and tail is None:  # the stream broke off, and the dashboard still answers
                chunks.put(log_of(dashboard, job).encode()[shown:])
            if not job.over and looked - heard > 3 * _SLOW_POLL_S and (reason := waits_for(dashboard, job)) != said:
                said = reason
                if reason:
                    tell(f"waits for {reason}")
    if tail is None:  # what was printed last, between the stream's last look and the end
        yield log_of(dashboard, job).encode()[shown:].decode(errors="replace")


def _read(dashboard: Dashboard, job: Job, tail: int | None, chunks: Queue[bytes]) -> None:
    lines = -1 if tail is None else tail
    name = f"job-driver-{job.id}.log"
    asked = {"node_id": job.node, "filename": name, "lines": lines, "interval": _STREAM_S}
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


def goes_on_with(dashboard: Dashboard, job: Job) -> str | None:
    """The command that goes on with a job that ended unfinished; None where there is nothing to go on with."""
    if not job.unfinished or job.kind is None:
        return None
    if job.kind not in ("train", "sweep"):
        return "submit the same again" + ("; what was scored is kept" if job.kind == "predict" else "")
    try:
        log = log_of(dashboard, job)
    except VitrayError:  # its node is gone
        log = ""
    if found := _GOES_ON.findall(log):
        return f"vitray jobs submit {job.kind} --resume {found[-1][1]}"
    began = _BEGAN.search(log)
    return f"vitray jobs submit {job.kind} --resume {began.group(1)}" if began else None


def last_error(job: Job, log: str) -> str | None:
    """Why a job failed, in what it said itself, or else in what Ray says."""
    if at := log.rfind("error: ") + 1:
        return log[at - 1 :].strip()
    return public(job.message.strip().splitlines()[0]) if job.message and job.status == "FAILED" else None
