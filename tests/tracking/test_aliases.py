"""Aliases move and their moves are kept; deleting takes what it should and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitray.errors import TrackingError
from vitray.tracking import registry
from vitray.tracking.aliases import Move, history, parse, roll_back, standing
from vitray.tracking.mlflow_client import connect
from vitray.tracking.removal import delete_versions

Register = Callable[..., int]
MOVES = st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["registered", "promoted", "rolled back", "found"])))


@given(MOVES)
def test_a_history_reads_back_and_has_no_version_twice_in_a_row(given: list[tuple[int, Any]]) -> None:
    moves = [Move(version, how, "2026-11-28 09:30") for version, how in given]
    assert parse("; ".join(map(str, moves))) == moves
    stack = standing(moves)
    assert all(a != b for a, b in itertools.pairwise(stack))
    assert stack[-1:] == [version for version, _ in given[-1:]]


def test_what_was_rolled_back_is_not_gone_back_to() -> None:
    text = "v1 registered 2026-11-28 09:30; v2 promoted 2026-11-28 10:00; by hand; v1 rolled back 2026-11-28 10:01"
    assert standing(parse(text)) == [1]
    again = [Move(version, "promoted", "2026-11-28 09:30") for version in (1, 2, 1, 3)]
    assert standing([*again, Move(1, "rolled back", "2026-11-28 10:00")]) == [1, 2, 1]
    assert standing(parse(text + "; v3 promoted 2026-11-28 11:00")) == [1, 3]


@pytest.fixture
def three(uri: str, register: Register) -> str:
    """A registry with versions 1, 2 and 3, each of which was champion."""
    for run in ("sweep-a", "sweep-b", "sweep-c"):
        register(run)
    return uri


def champion(uri: str) -> int:
    return registry.resolve(uri, "digits@champion").version


def versions(uri: str) -> list[registry.ModelVersion]:
    return registry.list_models(uri, "digits")


@pytest.mark.slow
def test_rolling_back_goes_all_the_way_and_then_says_so(three: str) -> None:
    assert [str(move)[:13] for move in history(three, "digits", "champion")] == [f"v{n} registered" for n in (1, 2, 3)]
    assert roll_back(three, "digits", "champion", versions(three)) == (3, 2)
    assert roll_back(three, "digits", "champion", versions(three)) == (2, 1)
    assert champion(three) == 1
    with pytest.raises(TrackingError, match=r"nothing to roll back to.*v1 rolled back"):
        roll_back(three, "digits", "champion", versions(three))
    registry.set_alias(three, "digits", 3, "champion")
    assert roll_back(three, "digits", "champion", versions(three)) == (3, 1)
    with pytest.raises(TrackingError, match="it was never set"):
        roll_back(three, "digits", "best", versions(three))


@pytest.mark.slow
def test_an_alias_that_was_moved_on_mlflows_page_is_in_the_history(three: str) -> None:
    connect(three).set_registered_model_alias("digits", "champion", "1")
    assert str(history(three, "digits", "champion")[-1]).startswith("v1 found")
    registry.set_alias(three, "digits", 2, "champion")
    assert [move.version for move in history(three, "digits", "champion")] == [1, 2, 3, 1, 2]
    assert roll_back(three, "digits", "champion", versions(three)) == (2, 1)


@pytest.mark.slow
def test_deleting_a_version_takes_its_alias_and_its_model_and_rolling_back_passes_it_over(three: str) -> None:
    second = registry.resolve(three, "digits/2")
    delete_versions(three, [second])
    delete_versions(three, [second])  # again, as after an interruption
    assert [version.version for version in versions(three)] == [3, 1]
    client = connect(three)
    experiments = [e.experiment_id for e in client.search_experiments()]
    assert len(client.search_logged_models(experiments)) == 2
    assert len(client.search_runs(experiments)) == 3  # runs stay
    assert roll_back(three, "digits", "champion", versions(three)) == (3, 1)
    assert registry.download("models:/digits/3", tracking_uri=three).is_dir()


@pytest.mark.slow
def test_deleting_a_model_frees_its_name(three: str, register: Register) -> None:
    delete_versions(three, versions(three), whole_model=True)
    assert versions(three) == []
    assert register("sweep-d") == 1
    assert champion(three) == 1
