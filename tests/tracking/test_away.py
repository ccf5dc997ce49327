"""What waits for the tracking store, and what does not."""

from __future__ import annotations

import pytest

from vitray.errors import StoreAwayError, TrackingError
from vitray.tracking import away as waiting_for
from vitray.tracking.away import when_it_answers
from vitray.tracking.mlflow_client import unreachable

_URI = "http://mlflow:5000"


@pytest.mark.parametrize(
    ("said", "away"),
    [
        ("HTTPConnectionPool: Max retries exceeded: Connection refused", True),
        ("HTTPConnectionPool: Read timed out.", True),
        ("API request failed with error code 503 != 200. Response body: ''", True),
        ("API request to endpoint failed with error code 403 != 200", False),
        ("RESOURCE_DOES_NOT_EXIST: no such version", False),
    ],
)
def test_what_may_be_over_by_and_by_is_told_from_what_stays(said: str, away: bool) -> None:
    assert isinstance(unreachable(_URI, Exception(said)), StoreAwayError) == away


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
