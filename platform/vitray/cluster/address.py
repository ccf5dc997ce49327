"""Which cluster a command means, and whether it answers: known in a moment, without importing Ray.

Ray itself tries a dead address for three minutes and a wrong token for twenty seconds, and says the same of both.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from vitray.cluster.guard import refuse_unguarded
from vitray.cluster.head import call, host_and_port
from vitray.cluster.token import token_refused, token_sent
from vitray.errors import ResourceError

_ANSWER_S = 3.0
_FIRST_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # its request has no fields
_START = "start one with `ray start --head`, or leave the address out to work on a local Ray"


def named_address(address: str | None) -> str | None:
    """The cluster asked for, by ``address`` or else ``RAY_ADDRESS``; None where a local Ray is meant."""
    target = address or os.environ.get("RAY_ADDRESS")
    return None if target in (None, "", "local") else target


def check_answers(target: str) -> None:
    """Make sure that a Ray head answers at ``HOST:PORT`` and takes the token of this process.

    ``auto`` is left to Ray, which looks on this machine only and knows at once.

    Raises:
        ResourceError: not an address of a head node, nobody answers there, the token is missing or wrong, or none is
            asked for (see :mod:`vitray.cluster.guard`).
    """
    if target == "auto":
        return
    host, port = _parts(target)
    if (reason := unreachable(target)) is not None:
        raise ResourceError(f"no Ray cluster answers: {reason}", where=target, remedy=_START)
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):  # certificates are Ray's business
        _ask(target, host, port)


def unreachable(target: str) -> str | None:
    """Why nobody takes a connection at ``HOST:PORT``; None where somebody does."""
    try:
        socket.create_connection(_parts(target), timeout=_ANSWER_S).close()
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def asks_for_token(target: str) -> bool:
    """Whether the head node at ``HOST:PORT`` turns away those without a token."""
    return _first_call(*_parts(target), None) is not None


def _parts(target: str) -> tuple[str, int]:
    scheme, separator, _ = target.partition("://")
    if separator:
        remedy = "give the head node's HOST:PORT (6379 unless set otherwise)"
        if scheme in ("http", "https"):
            remedy += f", or submit a job: vitray jobs submit train CONFIG --address {target}"
        raise ResourceError(f"a cluster is not joined through {scheme}://", where=target, remedy=remedy)
    found = host_and_port(target)
    if found is None:
        raise ResourceError(
            "is not the address of a Ray cluster", where=repr(target), remedy="write HOST:PORT, as in 10.0.0.1:6379"
        )
    return found


def _ask(target: str, host: str, port: int) -> None:
    import grpc  # type: ignore[import-untyped]

    # Without a token first: a cluster that answers so is refused, and gets to see none.
    code, token = _first_call(host, port, None), token_sent()
    if code is None:
        refuse_unguarded(target, host)
    elif code is grpc.StatusCode.UNAUTHENTICATED and token:
        code = _first_call(host, port, token)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        raise token_refused(target, token)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED):
        remedy = (
            "give the port that the head node was started with (6379 unless set otherwise); "
            "of a cluster with TLS, set RAY_USE_TLS and its certificates"
        )
        raise ResourceError("something listens there, but it is no Ray head node", where=target, remedy=remedy)
    # Anything else came from a head node; what ails it, Ray says better.


def _first_call(host: str, port: int, token: str | None) -> Any:
    """What a head node answers to the first thing that Ray's own client asks: None for yes, else gRPC's status code."""
    said = call(host, port, _FIRST_CALL, b"", token=token, timeout_s=_ANSWER_S)
    return None if isinstance(said, bytes) else said
