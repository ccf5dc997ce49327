"""Aliases of registered models, and their history, which MLflow does not keep.

The history is a tag of the registered model, one an alias, that reads as text on MLflow's page:
``v1 registered 2026-11-28 09:30; v2 promoted 2026-11-29 10:00; v1 rolled back 2026-11-29 10:05``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from vitray.errors import TrackingError
from vitray.tracking.mlflow_client import asking, connect
from vitray.tracking.versions import ModelVersion

HISTORY_TAG = "vitray.alias_history."
How = Literal["registered", "promoted", "rolled back", "found"]
_MOST = 60  # moves that are kept; MLflow's limit for a tag is 5,000 characters
_MOVE = re.compile(r"v(?P<version>\d+) (?P<how>registered|promoted|rolled back|found) (?P<when>[0-9: -]{16})")


@dataclass(frozen=True)
class Move:
    """An alias began to mean ``version``; ``when`` is the minute, UTC. ``found``: it was moved by other means."""

    version: int
    how: How
    when: str

    def __str__(self) -> str:
        return f"v{self.version} {self.how} {self.when}"


def parse(text: str) -> list[Move]:
    """The moves in a history tag, the oldest first; what somebody wrote into it by hand is skipped."""
    found: Iterator[dict[str, Any]] = (match.groupdict() for match in _MOVE.finditer(text))
    return [Move(int(m["version"]), m["how"], m["when"]) for m in found]


def standing(moves: list[Move]) -> list[int]:
    """The versions that the alias meant, without those that were rolled back; the last is the present one."""
    stack: list[int] = []
    for move in moves:
        if move.how == "rolled back" and move.version in stack:
            del stack[len(stack) - stack[::-1].index(move.version) :]  # back to where it stood last
        elif stack[-1:] != [move.version]:
            stack.append(move.version)
    return stack


def move_alias(client: Any, name: str, alias: str, version: int, how: How) -> None:
    """Let ``NAME@alias`` mean a version, and write it down. Doing it again changes nothing.

    The alias moves first: where this process dies before it is written down, the next move finds it so.
    """
    model = client.get_registered_model(name)
    moves = _known(model, alias)
    if str(model.aliases.get(alias)) != str(version):
        client.set_registered_model_alias(name, alias, str(version))
    if not moves or moves[-1].version != version:
        moves.append(Move(version, how, _now()))
        text = "; ".join(map(str, moves[-_MOST:]))
        client.set_registered_model_tag(name, f"{HISTORY_TAG}{alias}", text)


def history(tracking_uri: str, name: str, alias: str) -> list[Move]:
    """How an alias moved, the oldest move first. Empty for one that never was.

    Raises:
        TrackingError: there is no such model.
    """
    with asking(tracking_uri):
        return _known(connect(tracking_uri).get_registered_model(name), alias)


def roll_back(tracking_uri: str, name: str, alias: str, versions: list[ModelVersion]) -> tuple[int, int]:
    """Let the alias mean what it meant before; again for what it meant before that. Returns (from, to).

    Args:
        versions: those that are registered; deleted ones are passed over.

    Raises:
        TrackingError: it is not known to have meant anything else.
    """
    with asking(tracking_uri):
        client = connect(tracking_uri)
        moves = _known(client.get_registered_model(name), alias)
        there = {version.version for version in versions}
        stack = standing(moves)
        earlier = [version for version in stack[:-1] if version in there and version != stack[-1]]
        if not earlier:
            said = f"its history: {'; '.join(map(str, moves))}" if moves else "it was never set"
            raise TrackingError(
                f"there is nothing to roll back to ({said})",
                where=f"{name}@{alias}",
                remedy=f"name a version yourself: vitray models promote {name} VERSION --alias {alias}",
            )
        move_alias(client, name, alias, earlier[-1], "rolled back")
    return stack[-1], earlier[-1]


def _known(model: Any, alias: str) -> list[Move]:
    """The moves, the present one included where it came about by other means (MLflow's page, say)."""
    now = model.aliases.get(alias)
    return moves_up_to(model.tags.get(f"{HISTORY_TAG}{alias}", ""), None if now is None else int(now))


def moves_up_to(text: str, now: int | None) -> list[Move]:
    """The moves in a history tag, and that the alias means version ``now`` if they do not say so."""
    moves = parse(text)
    if now is not None and (not moves or moves[-1].version != now):
        moves.append(Move(now, "found", _now()))
    return moves


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())
