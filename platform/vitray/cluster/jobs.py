"""Jobs on a cluster: submit one, look at them, and how to go on with one that ended."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from dataclasses import dataclass
from typing import Any

from vitray import __version__
from vitray.cluster import job_memory
from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_package import Package, of_texts, of_vitray, send
from vitray.cluster.job_records import LOST, Job, named, newest_first
from vitray.cluster.job_request import Request
from vitray.cluster.job_secrets import refuse_secrets
from vitray.errors import VitrayError
from vitray.masking import public

DRIVER = ("python", "-m", "vitray.cli.job")
OPTIONS = "vitray.options"  # in a job's metadata: the words of its submission that are needed again to go on with it
_GOES_ON = re.compile(r"go on with: vitray (train --resume|sweep resume) (\S+)")
_BEGAN = re.compile(r"^(?:\[ *\d+ s\] )?(?:run|sweep) (\S+): .*?\bstate in\b", re.M | re.S)


@dataclass(frozen=True)
class Submitted:
    """``sent``: each package, and whether the cluster lacked it."""

    id: str
    sent: list[tuple[Package, bool]]


def submit(
    dashboard: Dashboard, request: Request, *, installed: bool = False, seen_home: str | None = None
) -> Submitted:
    """Hand a job to the cluster, and remember it here.

    ``installed``: it runs the cluster's own vitray, not this one; ``seen_home``: its state folder, if that is seen
    from here.

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
    asked: dict[str, Any] = {
        "entrypoint": entrypoint,
        "submission_id": number,
        "runtime_env": environment,
        "metadata": {**metadata, **request.metadata},
    }
    said = dashboard.post("/api/jobs/", asked)
    note = job_memory.Submitted(
        id=said["submission_id"],
        kind=request.kind,
        name=request.name,
        entrypoint=entrypoint,
        url=dashboard.url,
        session=dashboard.session,
        started=time.time(),
        metadata=asked["metadata"],
        home=seen_home,
    )
    job_memory.remember(note)
    return Submitted(said["submission_id"], sent)


def _slug(text: str) -> str:
    """Letters, digits and dashes of a name, for an id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def jobs(dashboard: Dashboard) -> list[Job]:
    """All submitted jobs, newest first; also those that were submitted from here and were lost with the head."""
    known = newest_first(dashboard.get("/api/jobs/"))
    return sorted([*known, *job_memory.lost(dashboard, known)], key=lambda job: -job.started)


def find(dashboard: Dashboard, wanted: str) -> Job:
    """See :func:`vitray.cluster.job_records.named`."""
    return named(jobs(dashboard), wanted)


def again(dashboard: Dashboard, job: Job) -> Job:
    """The job as it is now."""
    if job.status == LOST:
        return job
    return Job.of(dashboard.get(f"/api/jobs/{job.id}"))


def log_of(dashboard: Dashboard, job: Job, *, tail: int | None = None) -> str:
    """What the job has printed so far; the last ``tail`` lines of it.

    Raises:
        VitrayError: it cannot be had, as where its head or node is gone.
    """
    if job.status == LOST:
        raise VitrayError("its log went with the head", where=job.id)
    text: str = dashboard.get(f"/api/jobs/{job.id}/logs")["logs"]
    return text if tail is None else last_lines(text, tail)


def last_lines(text: str, count: int) -> str:
    """The last so many lines of a text."""
    return "".join(text.splitlines(keepends=True)[-count:] if count else ())


def goes_on_with(dashboard: Dashboard, job: Job) -> str | None:
    """The command that goes on with a job that ended unfinished; None where there is nothing to go on with."""
    if not job.unfinished or job.kind is None:
        return None
    if job.kind not in ("train", "sweep"):
        return "submit the same again" + ("; what was scored is kept" if job.kind == "predict" else "")
    if job.status == LOST:
        if job.run == "":
            return "submit the same again: it had not begun"
        return _again_command(job, job.run or job.id)
    try:
        log = log_of(dashboard, job)
    except VitrayError:  # its node is gone
        log = ""
    found = _GOES_ON.findall(log)
    began = _BEGAN.search(log)
    if not found and began is None:
        return None
    name = found[-1][1] if began is None or found else began.group(1)
    return _again_command(job, name)


def _again_command(job: Job, name: str) -> str:
    return " ".join(filter(None, (f"vitray jobs submit {job.kind} --resume {name}", job.metadata.get(OPTIONS))))


def last_error(job: Job, log: str) -> str | None:
    """Why a job failed, in what it said itself, or else in what Ray says."""
    if at := log.rfind("error: ") + 1:
        return log[at - 1 :].strip()
    return public(job.message.strip().splitlines()[0]) if job.message and job.status == "FAILED" else None
