"""Where a cluster takes jobs: its dashboard's address, named outright or found through the head node."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from vitray.cluster.guard import on_loopback
from vitray.cluster.head import call, host_and_port, in_brackets
from vitray.cluster.token import TOKEN_REMEDY, token_at_hand, token_refused
from vitray.errors import ConfigError, ResourceError
from vitray.masking import public

DEFAULT = "http://127.0.0.1:8265"
FORMS = "the dashboard's address, as in http://HEAD:8265, or the head node's, as in HEAD:6379"
TUNNEL = "from outside of the cluster, open a tunnel to its head node: ssh -L 8265:127.0.0.1:8265 HEAD"
_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_PATIENCE_S = 2.0
_GET = "/ray.rpc.InternalKVGcsService/InternalKVGet"
_KEY = b"\n\tdashboard\x12\tdashboard"  # the request: key (field 1) and namespace (field 2) are both "dashboard"


def named_dashboard(address: str | None) -> str | None:
    """The URL of the dashboard that is meant by ``address``, else by ``RAY_API_SERVER_ADDRESS`` or ``RAY_ADDRESS``.

    Raises:
        ConfigError: not an address of a dashboard or a head node.
        ResourceError: the head node is there, and its dashboard is not.
    """
    named = address or next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), None)
    if named in (None, "", "local", "auto"):  # "auto" is the cluster of this machine, and so is the usual address
        return None
    assert named is not None
    scheme, separator, rest = named.partition("://")
    if not separator:
        return _of_host(named)
    if scheme not in ("http", "https"):
        raise ConfigError(f"jobs are not submitted through {scheme}://", where=public(named), remedy=f"write {FORMS}")
    parts = urlsplit(named)
    if parts.username or parts.password:
        raise ConfigError("a dashboard takes a token, no user", where=public(named), remedy=TOKEN_REMEDY)
    if not parts.hostname:
        raise _no_address(named)
    return f"{scheme}://{rest.partition('?')[0].rstrip('/')}"


def _of_host(named: str) -> str:
    found = host_and_port(named)
    if found is None:
        raise _no_address(named)
    host, port = found
    said = _ask_head(host, port)
    if said is None:
        return f"http://{named}"  # whether a dashboard is there will be seen
    if not said:
        raise ResourceError(
            "the head node has no dashboard, which takes the jobs",
            where=named,
            remedy="install ray[default] on it, and start it without --include-dashboard=false",
        )
    its_host, _, its_port = said.rpartition(":")
    if on_loopback(its_host.strip("[]")) and not on_loopback(host):
        what = f"the head node's dashboard listens on its own loopback only ({said})"
        raise ResourceError(what, where=named, remedy=f"{TUNNEL}; then --address {DEFAULT}")
    # By the name that led to the head: what the dashboard calls itself may be its address in another network.
    return f"http://{its_host if on_loopback(its_host.strip('[]')) else in_brackets(host)}:{its_port}"


def _ask_head(host: str, port: int) -> str | None:
    """What a head node says is its dashboard's HOST:PORT, "" for none; None where no head node answers."""
    import grpc  # type: ignore[import-untyped]

    for token in (None, token_at_hand()):  # a cluster that wants none gets to see none
        said = call(host, port, _GET, _KEY, token=token, timeout_s=_PATIENCE_S)
        if isinstance(said, bytes):
            return _value_of(said)
        if said is not grpc.StatusCode.UNAUTHENTICATED:
            return None
    raise token_refused(f"{in_brackets(host)}:{port}", token)


def _value_of(reply: bytes) -> str:
    """The field ``value`` (2) of the reply, after ``status`` (1): both have a length of one or two bytes."""
    at = 0
    while at < len(reply):
        field, at = reply[at] >> 3, at + 1
        length, shift = 0, 0
        while True:
            byte, at = reply[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if field == 2:
            return reply[at : at + length].decode()
        at += length
    return ""


def _no_address(named: str) -> ConfigError:
    return ConfigError("is not the address of a cluster that takes jobs", where=repr(named), remedy=f"write {FORMS}")
