"""Clusters without authentication: whoever reaches one runs code on it, so vitray joins none beyond this machine."""

from __future__ import annotations

import ipaddress
import os
import socket

from vitray.errors import ResourceError

INSECURE = "VITRAY_INSECURE"  # the environment variable that `--insecure` sets; jobs and their drivers inherit it


def insecure_allowed() -> bool:
    """Whether this process was told to use clusters without authentication."""
    return os.environ.get(INSECURE, "").lower() in ("1", "true")


def on_loopback(host: str) -> bool:
    """Whether a name or address leads to this machine's loopback and nowhere else."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


def refuse_unguarded(target: str, host: str) -> None:
    """Called of a cluster at ``target`` that lets in whoever asks.

    Raises:
        ResourceError: it can be reached from other machines, and ``--insecure`` was not given.
    """
    if not (insecure_allowed() or on_loopback(host)):
        raise ResourceError(
            "the cluster asks for no token: whoever reaches it can run code on it, and read what you send",
            where=target,
            remedy="start it with RAY_AUTH_MODE=token and a token (`ray get-auth-token --generate`), "
            "or, in a network that you trust, pass --insecure (in a job: VITRAY_INSECURE=1 in its env_vars)",
        )
