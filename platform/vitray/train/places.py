"""The places of worker groups on the cluster: given back also where whoever would have done so is dead.

A placement group that Ray Train's controller made stays when that process dies, as long as the job lives; its CPUs are
nobody's then. Ray Train's own cleaner asks the dashboard who is alive, and a local Ray has none. Here each place bears
the name of its group's mailbox from the moment it is asked for, and a group whose mailbox is dead has no use for it.
"""

from __future__ import annotations

import importlib
import secrets
from functools import partial
from typing import Any

import ray
from ray._private.state import state
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group


def new_name() -> str:
    """A name for a group's mailbox that no other has. It begins with the job's: actors are known within their job."""
    return f"{_prefix()}{secrets.token_hex(8)}"


def named_place(mailbox: str, bundles: list[dict[str, float]], **more: Any) -> PlacementGroup:
    """A placement group for the group of that mailbox."""
    return placement_group(bundles, name=f"{mailbox}/{secrets.token_hex(4)}", **more)


def name_places(mailbox: str) -> None:
    """Runs in Ray Train's controller: all places that it asks for are named. It has no argument for that."""
    module: Any = importlib.import_module("ray.train.v2._internal.execution.worker_group.worker_group")
    module.placement_group = partial(named_place, mailbox)


def free_place(mailbox: str) -> None:
    """The group is gone: its places are free, if that is not so by now. Whoever is in one is killed."""
    for place in _places().get(mailbox, []):
        remove_placement_group(place)


def free_places() -> None:
    """Free the places of all groups of this job whose mailbox is dead."""
    for mailbox, places in _places().items():
        try:
            ray.get_actor(mailbox)
        except ValueError:
            for place in places:
                remove_placement_group(place)


def _places() -> dict[str, list[PlacementGroup]]:
    """By mailbox, the places that this job's groups hold or wait for."""
    found: dict[str, list[PlacementGroup]] = {}
    for place, known in (state.placement_group_table() or {}).items():
        if known["name"].startswith(_prefix()) and known["state"] != "REMOVED":
            mailbox = known["name"].partition("/")[0]
            found.setdefault(mailbox, []).append(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(place))))
    return found


def _prefix() -> str:
    return f"vitray-mailbox-{ray.get_runtime_context().get_job_id()}-"
