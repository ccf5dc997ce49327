"""What is remembered of jobs outside of the cluster, which forgets them all when its head is started anew.

Two notes a job, both under ``$VITRAY_HOME/jobs``: who submits it writes down what it is, in their own state folder; its
driver writes down the name of its run, in the job's. Where both are the same folder, all is known.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_records import LOST, Job
from vitray.home import Home
from vitray.train.provenance import submission_id

_SUBMITTED, _RUN = ".submitted.json", ".run.json"
_KEPT_S = 90 * 24 * 3600.0


@dataclass(frozen=True)
class Submitted:
    """A job as it was submitted. ``url`` and ``session``: the cluster's dashboard, and which start of its head it was;
    ``home``: the job's state folder, where it was told one."""

    id: str
    kind: str
    name: str
    entrypoint: str
    url: str
    session: str
    started: float
    metadata: Mapping[str, str]
    home: str | None = None

    def lost_to(self, dashboard: Dashboard) -> bool:
        """Whether the head was started anew after it had taken this job. Sessions bear the time of their start."""
        return self.url == dashboard.url and self.session < dashboard.session

    def as_lost(self) -> Job:
        """What is said of it then."""
        return Job(
            id=self.id,
            status=LOST,
            entrypoint=self.entrypoint,
            message="the cluster's head was started anew, and no longer knows of it",
            started=self.started,
            ended=None,
            kind=self.kind,
            name=self.name,
            code=None,
            driver=None,
            node=None,
            metadata=self.metadata,
            run=run_of(Home(Path(self.home)), self.id) or "" if self.home else None,
        )


def remember(job: Submitted) -> None:
    """Write down a job that was submitted. A folder that cannot be written must not make its submission fail."""
    with suppress(OSError):
        _write(Home.find().jobs / f"{job.id}{_SUBMITTED}", asdict(job))
        for path in Home.find().jobs.glob(f"*{_SUBMITTED}"):
            if time.time() - path.stat().st_mtime > _KEPT_S:
                path.unlink()


def forget(ids: Iterable[str]) -> None:
    """These jobs have ended and somebody was told, or go on as others."""
    folder = Home.find().jobs
    if not folder.is_dir():
        return
    for job in ids:
        (folder / f"{job}{_SUBMITTED}").unlink(missing_ok=True)
    for empty in (folder, folder.parent):  # whoever keeps nothing there finds nothing there
        with suppress(OSError):
            empty.rmdir()


def lost(dashboard: Dashboard, known: Iterable[Job]) -> list[Job]:
    """The jobs that were submitted from here and that the cluster lost with its head; ``known``: those that it has."""
    there = {job.id: job for job in known}
    forget(job.id for job in there.values() if job.over)
    return [job.as_lost() for job in _all() if job.id not in there and job.lost_to(dashboard)]


def name_of(job: str) -> str | None:
    """The name of a job that was submitted from here, by its id."""
    return next((one.name for one in _all() if one.id == job), None)


def goes_on(dashboard: Dashboard, kind: str, resumed: str) -> None:
    """A run, by its name or its job's id, goes on as another job: what was lost of it is not looked for any more."""
    there = [job.as_lost() for job in _all() if job.lost_to(dashboard) and job.kind == kind]
    forget(job.id for job in there if resumed in (job.id, job.run, job.name))


def lost_job(dashboard: Dashboard, job: str) -> Job | None:
    """One of them."""
    return next((one.as_lost() for one in _all() if one.id == job and one.lost_to(dashboard)), None)


def note_run(home: Home, run: str) -> None:
    """Write down which run this process's job is, if it is one: its id is then as good as the run's name."""
    if (job := submission_id()) is not None:
        _write(home.jobs / f"{job}{_RUN}", {"run": run})


def run_of(home: Home, job: str) -> str | None:
    """The run of a job, by its id; None where it is not known here."""
    try:
        said: str = json.loads((home.jobs / f"{job}{_RUN}").read_text())["run"]
    except (OSError, ValueError, KeyError):
        return None
    return said


def _all() -> list[Submitted]:
    found = []
    for path in sorted(Home.find().jobs.glob(f"*{_SUBMITTED}")):
        with suppress(OSError, ValueError, TypeError):  # gone meanwhile, or of another version
            found.append(Submitted(**json.loads(path.read_text())))
    return found


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(values, indent=1))
    part.replace(path)
