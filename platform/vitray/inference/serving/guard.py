"""Who may ask: pages of other origins may not, whatever name they reached this server by."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from vitray.inference.serving.asked import RefusalError

# For every answer: a browser shall take it for what it says it is, and keep it out of other pages.
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Checks Host and Origin.

    A page of another site can send requests here from its visitor's browser. Its origin gives it away, unless its name
    was made to point here (DNS rebinding); then the Host it asks for is that name. Addresses are always fine: what is
    asked for by address cannot be another site's name.

    Args:
        host: what the server listens on.
        more: further names that it may be called by, as behind a proxy.
    """

    def __init__(self, host: str, more: Iterable[str] = ()) -> None:
        own = {"localhost", host, socket.gethostname(), socket.getfqdn(), *more}
        self._names = {name.lower().rstrip(".") for name in own if name}

    def check(self, method: str, headers: Headers) -> None:
        """Raises RefusalError (403)."""
        host = headers.get("host", "")
        name = _hostname(host)
        if name is None or not (name.rstrip(".") in self._names or _is_address(name)):
            raise RefusalError(403, f"this server is not called {host[:80]!r}", "add --allow-host NAME to vitray serve")
        origin = headers.get("origin")
        if method not in ("GET", "HEAD") and origin is not None and not _same(origin, host):
            raise RefusalError(403, f"pages of {origin[:80]!r} may not ask here", "open this server's own page")


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _same(origin: str, host: str) -> bool:
    """The scheme may differ: a proxy in front may speak TLS. "null", of files and sandboxes, is nobody's origin."""
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"//{host}")
        default = {"http": 80, "https": 443}.get(theirs.scheme)
        return (
            default is not None
            and theirs.hostname == ours.hostname
            and (theirs.port or default) == (ours.port or default)
        )
    except ValueError:
        return False
