"""One way into MLflow: a quiet import, explicit addresses, short waits, a store that is set up exactly once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitray.errors import StoreAwayError, TrackingError
from vitray.files import is_full
from vitray.masking import public
from vitray.tracking.denial import denial

# Seconds to wait for a connection and for an answer, and no hidden retries: MLflow's own defaults hold a caller for
# about four minutes when a server is dead, and repeat POSTs that may have succeeded. Who calls us retries, knowing
# what is safe to repeat. A slow answer is waited for: giving up on it and asking again would never end.
REQUEST_TIMEOUT_S = (5, 60)
_import_lock = threading.Lock()
_prepared: set[str] = set()


def is_server(tracking_uri: str) -> bool:
    """True for an MLflow server (http, https), False for a database that is opened directly."""
    return tracking_uri.startswith(("http://", "https://"))


def load_mlflow() -> Any:
    """The mlflow module: without telemetry, without chatter, without long waits. Takes seconds the first time."""
    with _import_lock:
        before = os.environ.get("MLFLOW_DISABLE_TELEMETRY")
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read once, during the import; put back right after it
        try:
            import mlflow
            import mlflow.environment_variables as settings
            from mlflow.telemetry import client as telemetry
        finally:
            if before is None:
                os.environ.pop("MLFLOW_DISABLE_TELEMETRY", None)
            else:
                os.environ["MLFLOW_DISABLE_TELEMETRY"] = before
        if telemetry.get_telemetry_client() is not None:  # somebody else imported mlflow before us
            telemetry._set_telemetry_client(None)
        # Defaults, not the environment: a user's own MLFLOW_HTTP_... still wins, and no child process inherits ours.
        settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = 0
        settings.MLFLOW_HTTP_REQUEST_TIMEOUT.default = REQUEST_TIMEOUT_S
        settings.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.default = True  # stdout is for data, e.g. --output json
        settings.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.default = False
        settings.MLFLOW_UV_AUTO_DETECT.default = False  # it would copy a uv.lock of the current folder into models
        if not os.environ.get("MLFLOW_LOGGING_LEVEL"):
            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)  # every failure reaches a person through us
    return mlflow


def connect(tracking_uri: str, artifact_root: Path | None = None) -> Any:
    """An ``MlflowClient`` for a store; the embedded one is set up first if it is new.

    Args:
        tracking_uri: ``http(s)://...`` or a database such as ``sqlite:////path/mlflow.db``.
        artifact_root: where a new embedded store puts artifacts by default.

    Raises:
        TrackingError: the database was made by another MLflow version, or cannot be opened.
    """
    mlflow = load_mlflow()
    if not is_server(tracking_uri):
        prepare_store(tracking_uri, artifact_root)
    return mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def sqlite_path(tracking_uri: str) -> Path | None:
    """The file behind ``sqlite:///...``; None for every other address."""
    prefix = "sqlite:///"
    return Path(tracking_uri.removeprefix(prefix)) if tracking_uri.startswith(prefix) else None


def prepare_store(tracking_uri: str, artifact_root: Path | None = None) -> None:
    """Create or check a database's tables, one process at a time: two that migrate at once break each other."""
    database = sqlite_path(tracking_uri)
    if tracking_uri in _prepared and (database is None or database.exists()):
        return
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if artifact_root is None:
        artifact_root = database.parent / "artifacts" if database else Path("mlartifacts").resolve()
    try:
        if database is None:
            SqlAlchemyStore(tracking_uri, artifact_root.as_uri())
        else:
            database.parent.mkdir(parents=True, exist_ok=True)
            with (database.parent / f"{database.name}.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                SqlAlchemyStore(tracking_uri, artifact_root.as_uri())
    except MlflowException as error:
        if "out-of-date database schema" in str(error):
            raise TrackingError(
                "this database was made by another MLflow version",
                where=public(tracking_uri),
                remedy=f"back it up, then run: mlflow db upgrade {public(tracking_uri)}",
            ) from None
        raise unreachable(tracking_uri, error) from None
    except Exception as error:  # SQLAlchemy's and the driver's errors, of which there are many
        raise unreachable(tracking_uri, error) from None
    _prepared.add(tracking_uri)


_PHRASES = (
    *("connection refused", "connection reset", "timed out", "no route to host", "network is unreachable"),
    *("name or service not known", "temporary failure in name resolution"),
)
_BROKEN = ("Remote end closed connection", "IncompleteRead", "Response ended prematurely")
_AWAY = re.compile(rf"{'|'.join(_PHRASES)}|the connection broke off|HTTP error (408|429|5\d\d)")
_SQLITE_FULL = "database or disk is full"
_HTTP_ERROR = re.compile(r"too many (\d+) error responses|failed with error code (\d+)|^(\d+) \w+ Error: ")


def brief(error: BaseException | str) -> str:
    """The cause in a few words: what the network said where it is known, else the first line. No credentials in it."""
    text = public(str(error).strip())
    for phrase in _PHRASES:
        if phrase in text.lower():
            return phrase
    if any(words in text for words in _BROKEN):
        return "the connection broke off"
    if found := _HTTP_ERROR.search(text):
        return f"HTTP error {next(filter(None, found.groups()))}"
    return (text.splitlines() or [type(error).__name__])[0][:300]


def unreachable(tracking_uri: str, error: Exception) -> TrackingError:
    """The error for a store that does not answer; a :class:`StoreAwayError` where it may do so by and by."""
    said = brief(error)
    remedy = "start the server or correct MLFLOW_TRACKING_URI" if is_server(tracking_uri) else "check the database"
    what = f"the MLflow store does not answer: {said}"
    if said.startswith("HTTP error"):
        what, remedy = f"the MLflow server answers with {said}", "see its log, or correct MLFLOW_TRACKING_URI"
        if os.environ.get("MLFLOW_TRACKING_TOKEN"):  # MLflow's own users: a token is an error 500
            remedy += "; MLflow's basic-auth takes MLFLOW_TRACKING_USERNAME and ..._PASSWORD, and no token"
    kind = StoreAwayError if _AWAY.fullmatch(said) else TrackingError
    return kind(what, where=public(tracking_uri), remedy=remedy)


@contextlib.contextmanager
def asking(tracking_uri: str) -> Iterator[None]:
    """Turns every failure of MLflow inside the block into a :class:`TrackingError` that names the store.

    A full disk of this machine stays an OSError: there may be room by and by.
    """
    try:
        yield
    except Exception as error:
        if full := _full_disk(tracking_uri, error):
            raise full from error
        if isinstance(error, (TrackingError, AssertionError, AttributeError, NameError, TypeError)):
            raise  # the last ones are faults of ours
        if said := denial(tracking_uri, error):
            raise said from error
        code = getattr(error, "error_code", "")
        if code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"):
            what = brief(error).removeprefix(f"{code}: ")
            where = public(tracking_uri)
            raise TrackingError(f"MLflow refused: {what}", where=where, remedy="correct the request") from error
        raise unreachable(tracking_uri, error) from error


def _full_disk(tracking_uri: str, error: BaseException) -> OSError | None:
    """The full disk that is behind an error, if one is. What a server says of its own disk is not meant."""
    behind: BaseException | None = error
    seen: set[int] = set()  # each may be the other's cause
    while behind is not None and id(behind) not in seen:
        seen.add(id(behind))
        if is_full(behind):
            assert isinstance(behind, OSError)
            return OSError(behind.errno, behind.strerror, behind.filename)
        if _SQLITE_FULL in str(behind) and (database := sqlite_path(tracking_uri)):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(database))
        behind = behind.__cause__ or behind.__context__
    return None
