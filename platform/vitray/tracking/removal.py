"""Deleting from the registry: a version, or a model with all its versions."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from vitray.tracking.mlflow_client import asking, connect
from vitray.tracking.versions import ModelVersion

# MLflow does not keep a version's logged model, but its id is in the address of the files.
_LOGGED_MODEL = re.compile(r"/models/(m-[0-9a-f]{32})/artifacts")


def delete_versions(tracking_uri: str, versions: list[ModelVersion], *, whole_model: bool = False) -> None:
    """Delete versions of one model, their aliases with them, and the logged models behind them.

    Runs stay. MLflow keeps the files of deleted logged models until ``mlflow gc``. Interrupted and called again it
    goes on: what is gone is passed over.

    Args:
        whole_model: delete the registered model itself too; ``versions`` are then all it has.

    Raises:
        TrackingError: the store does not answer, or refuses.
    """
    with asking(tracking_uri):
        client = connect(tracking_uri)
        for version in versions:
            model_id = _model_id(client, version)
            with _gone_is_fine():
                client.delete_model_version(version.name, str(version.version))
            if model_id is not None:
                with _gone_is_fine():
                    client.delete_logged_model(model_id)
        if whole_model and versions:
            with _gone_is_fine():
                client.delete_registered_model(versions[0].name)


def _model_id(client: Any, version: ModelVersion) -> str | None:
    """The logged model whose files a version is; None where there is none, or another version is of the same."""
    found = _LOGGED_MODEL.search(version.source)
    if found is None or version.run_id is None:
        return None
    others = [  # of the same run, and copies, e.g. of MLflow's button "Promote model"
        *client.search_model_versions(f"run_id = '{version.run_id}'"),
        *client.search_model_versions(f"source_path = '{version.uri}'"),
    ]
    key = (version.name, version.version)
    sources = [other.source for other in others if (other.name, int(other.version)) != key]
    shared = any(found[1] in source or source == version.uri for source in sources)
    return None if shared else found[1]


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
