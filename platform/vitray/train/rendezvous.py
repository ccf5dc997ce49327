"""The place where ranks find each other listens on one address, the one they are told, instead of on every interface.

It asks for no password, and whoever reaches it could send ranks elsewhere: of a local Ray it is on loopback. torch has
an argument for that which its own way to a process group does not pass on.
"""

from __future__ import annotations

import importlib
import os
import socket
from datetime import timedelta
from typing import Any

_BACKLOG = 2048  # torch's


def listen_on_one_address() -> None:
    """Runs in a rank's process, before it joins a process group by ``env://``."""
    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")  # a function has that name
    if rendezvous._create_c10d_store is not _create_store:
        _torchs.append(rendezvous._create_c10d_store)
        rendezvous._create_c10d_store = _create_store


_torchs: list[Any] = []


def _create_store(
    hostname: str, port: int, rank: int, world_size: int, timeout: timedelta, use_libuv: bool = True
) -> Any:
    from torch.distributed import TCPStore

    bound = _bound(hostname, port) if rank == 0 else None
    if bound is None:
        return _torchs[-1](hostname, port, rank, world_size, timeout, use_libuv)
    try:
        return TCPStore(
            host_name=hostname,
            port=port,
            world_size=world_size,
            is_master=True,
            timeout=timeout,
            multi_tenant=True,
            use_libuv=use_libuv,
            master_listen_fd=os.dup(bound.fileno()),
        )
    finally:
        bound.close()


def _bound(hostname: str, port: int) -> socket.socket | None:
    """None where the address is not one of this machine's (behind NAT): torch then listens on all."""
    try:
        family, _, _, _, address = socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError:
        return None
