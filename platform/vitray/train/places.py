"""The places of worker groups on the cluster: given back also where whoever would have done so is dead.

A placement group that Ray Train's controller made stays when that process dies, as long as the job lives; its CPUs are
nobody's then. Ray Train's own cleaner asks the dashboard who is alive, and a local Ray has none. Here each group is on
record in the cluster's own key-value store, by the name of its mailbox, which is dead when the group is.
"""

from __future__ import annotations

import secrets

import ray
from ray.experimental import internal_kv
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

_SPACE = b"vitray"


def new_name() -> str:
    """A name for a group's mailbox that no other has."""
    return f"vitray-mailbox-{secrets.token_hex(8)}"


def keep_place(mailbox: str) -> None:
    """Called by a rank of the group: its place is on record from now on, one a group."""
    place = get_current_placement_group()
    if place is not None:
        internal_kv._internal_kv_put(_key(mailbox), place.id.binary(), namespace=_SPACE)


def free_place(mailbox: str) -> None:
    """The group is gone: its place is free, if that is not so by now."""
    place = internal_kv._internal_kv_get(_key(mailbox), namespace=_SPACE)
    if place is not None:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(place)))
        internal_kv._internal_kv_del(_key(mailbox), namespace=_SPACE)


def free_places() -> None:
    """Free the places of all groups of this job whose mailbox is dead."""
    for key in internal_kv._internal_kv_list(_key(""), namespace=_SPACE):
        mailbox = key.removeprefix(_key("")).decode()
        try:
            ray.get_actor(mailbox)
        except ValueError:
            free_place(mailbox)


def _key(mailbox: str) -> bytes:
    # Names of actors are known within their job, so others' groups must not be looked for.
    return f"{ray.get_runtime_context().get_job_id()}/{mailbox}".encode()
