"""Jobs as the cluster knows them, and how one is named: by its id, the beginning of one, or its name."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitray.errors import EXIT_FAILED, EXIT_INTERRUPTED, ConfigError, nearest

LOST = "LOST"  # not of Ray's: its head was started anew and has forgotten the job
ENDED = ("SUCCEEDED", "FAILED", "STOPPED", LOST)


@dataclass(frozen=True)
class Job:
    """One job. ``kind`` is train, sweep, prepare or predict; of others ``entrypoint`` says what they run.

    ``status``: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED or LOST. Times are Unix times. Once they are known:
    ``code``, the driver's exit code, ``driver``, its number in the cluster, and ``node``, where it runs. ``run``: of a
    lost one, the name of its run where that is known here, "" if it had not begun.
    """

    id: str
    status: str
    entrypoint: str
    message: str
    started: float
    ended: float | None
    kind: str | None
    name: str | None
    code: int | None
    driver: str | None
    node: str | None
    metadata: Mapping[str, str]
    run: str | None = None

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Job:
        """From what the dashboard says of it."""
        metadata = said.get("metadata") or {}
        ended = said.get("end_time")
        return cls(
            id=said.get("submission_id") or said.get("job_id") or "",
            status=said["status"],
            entrypoint=said.get("entrypoint") or "",
            message=said.get("message") or "",
            started=(said.get("start_time") or 0) / 1000,
            ended=ended / 1000 if ended else None,
            kind=metadata.get("vitray.kind"),
            name=metadata.get("vitray.name") or metadata.get("job_name"),
            code=said.get("driver_exit_code"),
            driver=said.get("job_id"),
            node=said.get("driver_node_id"),
            metadata=metadata,
        )

    @property
    def over(self) -> bool:
        return self.status in ENDED

    @property
    def exit_code(self) -> int:
        """What `vitray` would have exited with, had it run here: 0, 1, 2 or 130; of a stopped job 130."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return EXIT_INTERRUPTED
        return self.code if self.code is not None and self.code > 0 else EXIT_FAILED

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return max(0.0, (self.ended or time.time()) - self.started)

    @property
    def unfinished(self) -> bool:
        """It ended before its end, through no fault of its config."""
        return self.over and self.exit_code not in (0, 2)


def newest_first(said: Iterable[Mapping[str, Any]]) -> list[Job]:
    """The submitted jobs among all that the dashboard lists; scripts that merely joined the cluster are none."""
    return sorted((Job.of(one) for one in said if one.get("type") == "SUBMISSION"), key=lambda job: -job.started)


def named(jobs: Sequence[Job], wanted: str) -> Job:
    """The job with this id, the beginning of an id, or the name; of several, the only one that has not ended.

    Raises:
        ConfigError: none, or several; says which.
    """
    begins = [job for job in jobs if wanted and job.id.startswith(wanted)]
    for found in ([j for j in jobs if j.id == wanted], [j for j in jobs if j.name == wanted], begins):
        alive = [job for job in found if not job.over]
        for meant in (found, alive):
            if len(meant) == 1:
                return meant[0]
        if found:
            raise _several(wanted, found)
    if not jobs:
        raise ConfigError("no job was submitted to this cluster", where=wanted, remedy="vitray jobs submit --help")
    known = {job.id for job in jobs} | {job.name for job in jobs if job.name}
    close = nearest(wanted, known)
    remedy = close if close.startswith("did you mean") else "vitray jobs list shows them all"
    raise ConfigError(f"there is no job {wanted!r} on this cluster", remedy=remedy)


def _several(wanted: str, found: Sequence[Job]) -> ConfigError:
    listed = ", ".join(f"{job.id} ({job.status.lower()})" for job in found[:8])
    return ConfigError(f"{len(found)} jobs are meant by {wanted!r}: {listed}", remedy="write more of the id")
