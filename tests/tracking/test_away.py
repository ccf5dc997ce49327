"""What waits for the tracking store, and what does not."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from vitray.errors import StoreAwayError, TrackingError
from vitray.files import is_full, when_there_is_room
from vitray.tracking import away as waiting_for
from vitray.tracking.away import when_it_answers
from vitray.tracking.mlflow_client import asking, unreachable

_URI = "http://mlflow:5000"


@pytest.mark.parametrize(
    ("said", "away"),
    [
        ("HTTPConnectionPool: Max retries exceeded: Connection refused", True),
        ("HTTPConnectionPool: Read timed out.", True),
        ("API request failed with error code 503 != 200. Response body: ''", True),
        ("HTTPConnectionPool: Failed to resolve 'mlflow': [Errno -3] Temporary failure in name resolution", True),
        ("HTTPConnectionPool: Failed to establish a new connection: [Errno 101] Network is unreachable", True),
        ("('Connection broken: IncompleteRead(3 bytes read, 5 more expected)', IncompleteRead(3 bytes read))", True),
        ("Response ended prematurely", True),
        ("API request to endpoint failed with error code 403 != 200", False),
        ("RESOURCE_DOES_NOT_EXIST: no such version", False),
    ],
)
def test_what_may_be_over_by_and_by_is_told_from_what_stays(said: str, away: bool) -> None:
    assert isinstance(unreachable(_URI, Exception(said)), StoreAwayError) == away


SQLITE_IS_FULL = "(sqlite3.OperationalError) database or disk is full"
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/model")


@pytest.mark.parametrize(
    ("uri", "cause", "where"),
    [
        ("sqlite:////home/mlflow.db", sqlite3.OperationalError("database or disk is full"), "/home/mlflow.db"),
        ("sqlite:////home/mlflow.db", RuntimeError(SQLITE_IS_FULL), "/home/mlflow.db"),
        (_URI, NO_SPACE, "/cache/model"),
        (_URI, OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/cache/model"), "/cache/model"),
    ],
)
def test_a_full_disk_is_one_also_where_mlflow_met_it(uri: str, cause: Exception, where: str) -> None:
    def ask() -> None:
        try:
            raise cause
        except Exception:
            raise TrackingError("MLflow's own words") from None

    with pytest.raises(OSError, match=where) as error, asking(uri):
        ask()
    assert is_full(error.value)


def test_the_full_disk_of_a_server_is_not_ours() -> None:
    with pytest.raises(StoreAwayError), asking(_URI):
        raise RuntimeError(f"API request failed with error code 500 != 200. Response body: {SQLITE_IS_FULL}")


def test_what_met_a_full_disk_is_done_when_there_is_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([NO_SPACE, None])

    def ask() -> str:
        with asking("sqlite:////home/mlflow.db"):
            if error := next(answers):
                raise RuntimeError("MLflow's own words") from error
        return "there"

    assert when_it_answers(lambda: when_there_is_room(ask, tmp_path, 1), lambda text: None) == "there"
    assert "there is room again" in caplog.text


def test_it_is_asked_again_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_for, "_FIRST_S", 0.01)
    told: list[str] = []
    answers = iter([False, False, True])

    def ask() -> str:
        if not next(answers):
            raise StoreAwayError("does not answer", where=_URI)
        return "there"

    assert when_it_answers(ask, told.append) == "there"
    assert told == [f"{_URI}: does not answer; going on when that is over"]


def test_it_is_not_waited_for_for_ever_nor_for_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_for, "_FIRST_S", 0.01)
    monkeypatch.setattr(waiting_for, "PATIENCE_S", 0.05)
    asked = 0

    def away() -> None:
        raise StoreAwayError("does not answer", where=_URI)

    def wrong() -> None:
        nonlocal asked
        asked += 1
        raise TrackingError("is another version", where=_URI)

    with pytest.raises(StoreAwayError):
        when_it_answers(away, lambda text: None)
    with pytest.raises(TrackingError, match="another version"):
        when_it_answers(wrong, lambda text: None)
    assert asked == 1


def test_long_work_between_two_hiccups_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(waiting_for.time, "monotonic", lambda: now)
    monkeypatch.setattr(waiting_for.time, "sleep", sleep)
    answers = iter([False, False, True])

    def work_then_ask() -> str:
        sleep(3600)
        if not next(answers):
            raise StoreAwayError("does not answer", where=_URI)
        return "there"

    assert when_it_answers(work_then_ask, lambda text: None) == "there"
    now, asked = 0.0, 0

    def hang() -> None:
        nonlocal asked
        asked += 1
        sleep(65)  # as a request that times out
        raise StoreAwayError("timed out", where=_URI)

    with pytest.raises(StoreAwayError):
        when_it_answers(hang, lambda text: None)
    assert 8 <= asked <= 10  # ten minutes
