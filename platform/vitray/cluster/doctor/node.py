"""What is looked at on every machine of a cluster; runs there, as a task that takes no CPU."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from vitray.cluster.doctor import accelerator, dataset, packages, room
from vitray.cluster.doctor.finding import Finding, ok, warning
from vitray.train.interfaces import interface_of


@dataclass(frozen=True)
class Seen:
    """What one machine says.

    ``clock``: its Unix time. ``read``: it found the driver's probe below VITRAY_HOME. ``wrote``: why it could leave
    none of its own there, None if it could. ``home``: its own VITRAY_HOME, if set.
    """

    clock: float
    read: bool
    wrote: str | None
    home: str | None
    versions: dict[str, str]
    findings: tuple[Finding, ...]


def look(home: Path, probe: str, mine: str, address: str, object_store: float, data: str | None) -> Seen:
    """Run all checks of a machine.

    Args:
        home: the driver's VITRAY_HOME.
        probe: the name of a file that the driver wrote there.
        mine: the name of the file to leave there.
        address: the machine's, as Ray knows it.
        object_store: bytes, likewise.
        data: a dataset to be read.
    """
    clock, torch = time.time(), accelerator.TorchLook()
    read, wrote = os.path.isfile(home / probe), None  # noqa: PTH113 (Path.is_file raises where it may not look)
    try:
        (home / mine).write_text(probe)
    except OSError as error:
        wrote = error.strerror or str(error)
    findings = [*packages.check(), *room.check(home if read else Path.home(), object_store), _interface(address)]
    if data is not None:
        findings += dataset.check(data)
    findings += torch.findings()
    return Seen(clock, read, wrote, os.environ.get("VITRAY_HOME"), packages.versions(), tuple(findings))


def _interface(address: str) -> Finding:
    named = os.environ.get("GLOO_SOCKET_IFNAME")
    if named:
        return ok("network", f"ranks talk over {named}, as GLOO_SOCKET_IFNAME says")
    if (found := interface_of(address)) is not None:
        return ok("network", f"ranks talk over {found}, which has {address}")
    what = f"no interface of this machine has {address}, by which Ray knows it: ranks may not find each other"
    return warning("network", what, "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface that others reach")
