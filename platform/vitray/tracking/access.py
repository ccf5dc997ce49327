"""Asks a server, before anything starts, whether it will take what is going to be reported.

A training never dies of tracking, and so it must not run for hours either to find that nothing may be written.
What is certain is refused at the start: credentials that the server does not accept, a user who may only read.
A server that is away, slow or in trouble is no reason to wait: reports go to the spool and follow later.
"""

from __future__ import annotations

import threading
from pathlib import Path

from vitray import __version__
from vitray.errors import TrackingError
from vitray.tracking.denial import denial
from vitray.tracking.mlflow_client import is_server
from vitray.tracking.server import DeniedError, Server

PATIENCE_S = 10.0  # for a server that is merely slow
_TAG = "vitray.version"


def check_access(tracking_uri: str, experiment: str, model: str | None = None) -> None:
    """Writes a tag on the experiment (created where it is new), and on the model where it is known.

    Returns silently when the server does not answer within :data:`PATIENCE_S`, and for a store that is no server.

    Args:
        experiment: the name of the MLflow experiment that runs will go to.
        model: the registered model that will get a version, if any.

    Raises:
        TrackingError: it answers, and says no.
    """
    if not is_server(tracking_uri):
        return
    refused: list[TrackingError] = []
    asking = threading.Thread(
        target=_ask, args=(tracking_uri, experiment, model, refused), name="vitray-tracking-access", daemon=True
    )
    asking.start()
    asking.join(PATIENCE_S)
    if refused:
        raise refused[0]


def _ask(tracking_uri: str, experiment: str, model: str | None, refused: list[TrackingError]) -> None:
    server = Server(tracking_uri, Path())
    what = f"may not write to the experiment {experiment!r}"
    remedy = "ask for EDIT permission on it, or write to one of your own: tracking.experiment=NAME"
    try:
        server.tag_experiment(experiment, _TAG, __version__)
        if model is not None:
            what = f"may not register versions of the model {model!r}"
            remedy = "ask for EDIT permission on it, or register another: tracking.model=NAME"
            server.tag_model(model, _TAG, __version__)
    except DeniedError as error:
        if said := denial(tracking_uri, error.__cause__ or error, what=what, remedy=remedy):
            refused.append(said)
    except Exception:  # away, or in trouble: the uploader says so, once
        return
