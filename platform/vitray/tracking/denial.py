"""A server's "no" to who we are (401) or to what we may do (403), as one message that says what to change."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from vitray.errors import TrackingError
from vitray.masking import public

_CODES = {"UNAUTHENTICATED": 401, "CUSTOMER_UNAUTHORIZED": 401, "PERMISSION_DENIED": 403}
_SET = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


def status_of(error: BaseException) -> int:
    """The HTTP status behind an error of MLflow's, whichever of its layers raised it; 0 where there is none."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return int(status or _CODES.get(getattr(error, "error_code", ""), 0))


def denial(tracking_uri: str, error: BaseException, *, what: str = "", remedy: str = "") -> TrackingError | None:
    """The error for a 401 or 403; None where ``error`` is neither.

    Args:
        what: what was not permitted (403), to follow "user 'name'"; e.g. "may not write to the experiment 'digits'".
        remedy: what to do about that.
    """
    status = status_of(error)
    where = public(tracking_uri)
    user = _who(tracking_uri)
    if status == 401:
        if user is None:
            return TrackingError("this MLflow server wants to know who you are", where=where, remedy=_SET)
        return TrackingError(f"this MLflow server does not accept {user}", where=where, remedy=f"correct it: {_SET}")
    if status == 403:
        what = what or "may not do this on this MLflow server"
        remedy = remedy or "ask for the permission, or use the credentials of somebody who has it"
        return TrackingError(f"{user or 'somebody without credentials'} {what}", where=where, remedy=remedy)
    return None


def _who(tracking_uri: str) -> str | None:
    """Whom MLflow's client claims to be, by the rules that it follows; None without any credentials."""
    from mlflow.environment_variables import MLFLOW_TRACKING_AUTH, MLFLOW_TRACKING_TOKEN
    from mlflow.utils.credentials import read_mlflow_creds

    known = read_mlflow_creds()
    if known.username and known.password:
        return f"the user {known.username!r}"
    if MLFLOW_TRACKING_TOKEN.get():
        return "the token in MLFLOW_TRACKING_TOKEN"
    if MLFLOW_TRACKING_AUTH.get():
        return f"what MLFLOW_TRACKING_AUTH={MLFLOW_TRACKING_AUTH.get()} says of you"
    if known.username:
        return f"the user {known.username!r} without a password"
    parts = urlsplit(tracking_uri)
    return f"the user {unquote(parts.username)!r}" if parts.username else None
