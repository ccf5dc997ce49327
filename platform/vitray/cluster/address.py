"""Which cluster a command means, and whether it answers: known in a moment, without importing Ray.

Ray itself tries a dead address for three minutes and a wrong token for twenty seconds, and says the same of both.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from vitray.errors import ResourceError

_ANSWER_S = 3.0
# The first thing that Ray's own client asks of a head node. Its request has no fields.
_FIRST_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_START = "start one with `ray start --head`, or leave the address out to work on a local Ray"


def named_address(address: str | None) -> str | None:
    """The cluster asked for, by ``address`` or else ``RAY_ADDRESS``; None where a local Ray is meant."""
    target = address or os.environ.get("RAY_ADDRESS")
    return None if target in (None, "", "local") else target


def check_answers(target: str) -> None:
    """Make sure that a Ray head answers at ``HOST:PORT`` and takes the token of this process.

    ``auto`` is left to Ray, which looks on this machine only and knows at once.

    Raises:
        ResourceError: not an address of a head node, nobody answers there, or the token is missing or wrong.
    """
    if target == "auto":
        return
    host, port = _parts(target)
    if (reason := unreachable(target)) is not None:
        raise ResourceError(f"no Ray cluster answers: {reason}", where=target, remedy=_START)
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):  # certificates are Ray's business
        _ask(target, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def unreachable(target: str) -> str | None:
    """Why nobody takes a connection at ``HOST:PORT``; None where somebody does."""
    try:
        socket.create_connection(_parts(target), timeout=_ANSWER_S).close()
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _parts(target: str) -> tuple[str, int]:
    scheme, separator, _ = target.partition("://")
    if separator:
        remedy = "give the head node's HOST:PORT (6379 unless set otherwise)"
        if scheme in ("http", "https"):
            remedy += f", or submit a job: ray job submit --address {target} -- python jobs/train.py CONFIG"
        raise ResourceError(f"a cluster is not joined through {scheme}://", where=target, remedy=remedy)
    host, _, port = target.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ResourceError(
            "is not the address of a Ray cluster", where=repr(target), remedy="write HOST:PORT, as in 10.0.0.1:6379"
        )
    return host, int(port)


def _ask(target: str, endpoint: str) -> None:
    import grpc  # type: ignore[import-untyped]

    channel = grpc.insecure_channel(endpoint, options=[("grpc.enable_http_proxy", 0)])
    call = channel.unary_unary(_FIRST_CALL, request_serializer=bytes, response_deserializer=bytes)
    token = _token()
    try:
        call(b"", timeout=_ANSWER_S, metadata=[("authorization", f"Bearer {token}")] if token else None)
    except grpc.RpcError as error:
        code = error.code()
    else:
        return
    finally:
        channel.close()
    if code is grpc.StatusCode.UNAUTHENTICATED:
        raise ResourceError(
            "the cluster refuses the token of this process" if token else "the cluster wants a token",
            where=target,
            remedy="export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (its head node prints it: `ray get-auth-token`)",
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED):
        remedy = "give the port that the head node was started with (6379 unless set otherwise)"
        raise ResourceError("something listens there, but it is no Ray head node", where=target, remedy=remedy)
    # Anything else came from a head node; what ails it, Ray says better.


def _token() -> str | None:
    """What Ray would send: nothing unless RAY_AUTH_MODE=token, then the first of its three documented places."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return (Path(named) if named else Path.home() / ".ray" / "auth_token").read_text().strip() or None
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None
