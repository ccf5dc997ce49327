"""Which paths a job can be given: what only this machine sees is refused, with what to do instead."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from vitray.cluster.guard import on_loopback
from vitray.data.uri import is_uri
from vitray.errors import ConfigError

_STORES = ("sqlite", "postgresql", "mysql", "mssql", "file", "")


def seen_path(text: str, *, where: str, here: bool, remedy: str) -> str:
    """A path or URI as the cluster gets it: absolute where the cluster is this very machine (``here``).

    Elsewhere an absolute path is taken to be one that its machines see; the job itself is the first to know.

    Raises:
        ConfigError: it counts from this machine's folders.
    """
    if is_uri(text):
        return text
    path = Path(text)
    if here:
        return str(Path.cwd() / path.expanduser())
    if not path.is_absolute():
        raise ConfigError(f"{text!r} is on this machine, and the cluster is another", where=where, remedy=remedy)
    return text


def seen_tracking(uri: str, *, where: str, here: bool) -> str:
    """A tracking address as the cluster gets it.

    Raises:
        ConfigError: it is a file or a server that only this machine reaches.
    """
    scheme, _, rest = uri.partition(":")
    scheme = scheme.partition("+")[0] if is_uri(uri) else ""
    if here:
        if scheme == "sqlite" and not (database := rest.removeprefix("///")).startswith("/"):
            return f"{uri.partition(':')[0]}:///{Path.cwd() / database}"
        return uri if scheme else str(Path.cwd() / uri)
    remedy = "unset it: the cluster's own is used then; or name one that the cluster reaches with --tracking-uri"
    if scheme in _STORES and (scheme in ("sqlite", "file", "") or not urlsplit(uri).hostname):
        what = "is a file on this machine, and the cluster is another"
        raise ConfigError(what, where=f"{where}={uri}", remedy=remedy)
    if on_loopback(urlsplit(uri).hostname or ""):
        raise ConfigError("is a server on this machine's loopback", where=f"{where}={uri}", remedy=remedy)
    return uri
