"""Where a job keeps its state and whom it tells: what was asked for, else what its cluster's machines are set to."""

from __future__ import annotations

import os
from pathlib import Path

from vitray.cluster.guard import INSECURE, insecure_allowed
from vitray.cluster.job_paths import seen_path, seen_tracking
from vitray.cluster.job_secrets import credentials_left, refuse_secrets
from vitray.errors import ConfigError
from vitray.home import Home

HOME_ELSE = "VITRAY_JOB_HOME"  # the state folder of a job where the cluster's own environment names none
_HOME, _TRACKING = "VITRAY_HOME", "MLFLOW_TRACKING_URI"


def state_variables(*, here: bool, home: str | None, tracking_uri: str | None, stop_s: int) -> dict[str, str]:
    """The environment variables that a job is sent with.

    Args:
        here: the cluster is this very machine, so that this process's own settings count.
        home: a folder on the cluster.
        tracking_uri: an MLflow server that the cluster reaches.
        stop_s: seconds that a stopped job has for its checkpoint.

    Raises:
        ConfigError: a setting of this process that the cluster cannot use, or one with a credential in it.
    """
    sent = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(stop_s)}
    if insecure_allowed():
        sent[INSECURE] = "1"
    if home is not None:
        sent[_HOME] = seen_path(home, where="--home", here=here, remedy="name a folder that all of its machines see")
    elif (set_here := os.environ.get(_HOME)) and here:
        sent[_HOME] = str(Path(set_here).expanduser().resolve())
    elif set_here:
        raise ConfigError(
            "is set for this machine, and the cluster is another",
            where=f"{_HOME}={set_here}",
            remedy=f"unset it to use the cluster's own, or name a folder that its machines see: --home {set_here}",
        )
    elif here:
        sent[HOME_ELSE] = str(Home.find().root)
    uri, named_by = (tracking_uri, "--tracking-uri") if tracking_uri else (os.environ.get(_TRACKING), _TRACKING)
    if uri:
        refuse_secrets({named_by: uri})
        sent[_TRACKING] = uri if tracking_uri and not here else seen_tracking(uri, where=named_by, here=here)
    refuse_secrets({name: sent[name] for name in (_HOME, HOME_ELSE) if name in sent})
    return sent


def state_notes(sent: dict[str, str]) -> list[str]:
    """What somebody should know of what was not sent."""
    left = credentials_left()
    if _TRACKING in sent and left:
        return [
            f"{', '.join(left)} stay here: the cluster's machines need credentials of their own for {sent[_TRACKING]}"
        ]
    return []
