"""The doctor as a job of a cluster, for whoever reaches its dashboard and none of its machines."""

from __future__ import annotations

import json
import os
import re

from vitray.cluster import job_watch, jobs
from vitray.cluster.doctor.finding import Finding, blocks
from vitray.cluster.guard import INSECURE, insecure_allowed
from vitray.cluster.job_client import find_dashboard
from vitray.cluster.job_request import Request
from vitray.cluster.job_state import HOME_ELSE
from vitray.home import Home

_ANSWER = re.compile(r"^\{\n.*?^\}$", re.MULTILINE | re.DOTALL)
_BEYOND_S = 240.0  # for the job to start, beside what its machines may take


def examine(url: str, data: str | None, experiment: str | None, node_patience_s: float) -> list[Finding]:
    """What the cluster's own `vitray doctor` finds. ``data`` is taken as its machines see it.

    Raises:
        VitrayError: nobody answers, or the job does not end.
    """
    dashboard = find_dashboard(url)
    submitted = jobs.submit(dashboard, request(data, experiment, node_patience_s))
    job = jobs.find(dashboard, submitted.id)
    job = job_watch.wait(dashboard, job, timeout_s=node_patience_s + _BEYOND_S, tell=lambda _: None)
    log = jobs.log_of(dashboard, job)
    if (found := _ANSWER.search(log)) is None:
        last = (log.strip().splitlines() or [job.message or "it printed nothing"])[-1]
        return [blocks("job", f"the doctor's job ended without findings: {last[:200]}", f"vitray jobs logs {job.id}")]
    return [Finding(**one) for one in json.loads(found[0])["findings"]]


def request(data: str | None, experiment: str | None, node_patience_s: float) -> Request:
    """The job, before it is submitted."""
    words = ["doctor", "--output", "json", "--node-timeout", f"{node_patience_s:g}"]
    words += ["--data", data] if data is not None else []
    words += ["--experiment", experiment] if experiment is not None else []
    variables = {INSECURE: "1"} if insecure_allowed() else {}
    if os.environ.get("VITRAY_HOME"):
        # Where the cluster's environment names no folder, this one may be on storage that it shares.
        variables[HOME_ELSE] = str(Home.find().root)
    return Request("doctor", "", words, variables=variables)
