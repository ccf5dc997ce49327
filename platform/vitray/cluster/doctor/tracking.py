"""Does MLflow answer and let us in, does its clock agree with ours, and what has not reached it yet?"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit, urlunsplit

from vitray.cluster.doctor.finding import Finding, blocks, ok, refused, warning
from vitray.cluster.doctor.packages import INSTALL
from vitray.errors import VitrayError
from vitray.files import is_full
from vitray.home import Home
from vitray.masking import public
from vitray.tracking.mlflow_client import asking, connect, is_server, sqlite_path
from vitray.tracking.waiting import SpoolFolder

_PATIENCE_S = 5.0
_SKEW_S = 3.0  # a Date header has whole seconds


def check(home: Home, experiment: str | None = None) -> list[Finding]:
    """Takes a second or two, to import MLflow. Nothing is created.

    Args:
        experiment: of which it is checked that runs may be written to it, if it is there.
    """
    uri, found = home.tracking_uri, []
    database = sqlite_path(uri)
    if database is not None and not os.path.exists(database):  # noqa: PTH110 (Path.exists raises where it may not look)
        found.append(ok("mlflow", f"{uri} will be made when something is tracked"))
    else:
        found.append(_store(home, experiment))
        if is_server(uri) and found[0].state != "blocks":
            found += _clock(uri)
    return [*found, *_waiting(home)]


def _store(home: Home, experiment: str | None) -> Finding:
    from vitray.tracking.access import check_access

    uri = home.tracking_uri
    try:
        with asking(uri):
            client = connect(uri, home.artifacts)
            client.search_experiments(max_results=1)
            known = experiment is not None and client.get_experiment_by_name(experiment) is not None
        if experiment is not None and known:
            check_access(uri, experiment)
    except VitrayError as error:
        return refused("mlflow", error)
    except OSError as error:
        if not is_full(error):
            raise
        return blocks("mlflow", f"{public(uri)}: {error.strerror}: {error.filename}", "make room there")
    except ImportError as error:  # what is missing is what a doctor is asked for
        return blocks("mlflow", f"cannot ask {public(uri)}: {error}", INSTALL)
    writing = f", and takes runs of {experiment!r}" if known else ""
    return ok("mlflow", f"{public(uri)} answers{writing}")


def _clock(uri: str) -> list[Finding]:
    parts = urlsplit(uri)
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], f"{parts.path.rstrip('/')}/health", "", ""))
    before = time.time()
    try:
        with urllib.request.urlopen(bare, timeout=_PATIENCE_S) as answer:
            said = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        said = error.headers.get("Date")
    except OSError:
        return []
    if said is None:
        return []
    there = parsedate_to_datetime(said).timestamp()
    return [clock("MLflow", max(before - there - 1, there - time.time(), 0.0))]


def clock(whose: str, apart_s: float, most_s: float = _SKEW_S) -> Finding:
    """``apart_s``: by how much at least the clock there differs from the one here."""
    if apart_s <= most_s:
        return ok("clock", f"{whose} and this machine agree on the time")
    what = f"the clocks of {whose} and of this machine are at least {apart_s:,.0f} s apart"
    remedy = "set them by NTP: times in MLflow, tokens of object stores and certificates depend on it"
    return blocks("clock", what, remedy) if apart_s > 300 else warning("clock", what, remedy)


def _waiting(home: Home) -> list[Finding]:
    try:
        found = SpoolFolder.look(home.spool)
    except OSError as error:
        remedy = "set VITRAY_HOME to a folder that you may read and write"
        return [blocks("spool", f"cannot read {home.spool}: {error.strerror}", remedy)]
    late = [run for run in found.runs if run.waiting and not run.held]
    if late:
        what = f"reports of {len(late)} ended runs are not in MLflow yet, {sum(run.waiting for run in late)} in all"
        return [warning("spool", what, "bring them there: vitray track sync")]
    if found.refused:
        remedy = f"see {found.folder / 'refused.jsonl'}, and delete it"
        return [warning("spool", f"MLflow refused {found.refused} reports for good", remedy)]
    return [ok("spool", "all that was reported is in MLflow, or its run is in progress")]
