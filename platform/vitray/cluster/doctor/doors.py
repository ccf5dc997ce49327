"""Who may come in: Ray's token, and the file that it lies in. And which of the usual ports somebody has."""

from __future__ import annotations

import os
import socket
import stat

from vitray.cluster.address import asks_for_token
from vitray.cluster.doctor.finding import Finding, blocks, ok, warning
from vitray.cluster.token import MODE, TOKEN, TOKEN_PATH, token_at_hand, token_file

_PORTS = {6379: "a Ray head", 8265: "Ray's dashboard", 10001: "Ray Client", 5000: "vitray ui", 8000: "vitray serve"}


def check_token() -> list[Finding]:
    """Of this process and its user."""
    if os.environ.get(TOKEN):
        return [ok("token", f"Ray's token is in {TOKEN}")]
    try:
        file = token_file()
        found = file.stat()
    except RuntimeError:
        return [warning("token", "there is no home directory to keep Ray's token in", f"set {TOKEN} or {TOKEN_PATH}")]
    except OSError as error:
        if os.environ.get(TOKEN_PATH):
            what = f"{TOKEN_PATH}={file}: {error.strerror}"
            return [blocks("token", what, f"correct or unset {TOKEN_PATH}")]
        return [ok("token", "no token for Ray yet: a local Ray makes one")]
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        what = f"{file} (mode {mode:04o}) can be read by others, who can then run code on your clusters"
        return [warning("token", what, f"chmod 600 {file}; if they are not trusted, make a new token")]
    if token_at_hand() is None:
        return [warning("token", f"{file} is empty or cannot be read", "delete it: a local Ray makes a new one")]
    return [ok("token", f"Ray's token is in {file}, for its owner alone")]


def check_cluster(address: str) -> list[Finding]:
    """Of a cluster that was joined."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return [ok("authentication", "the cluster asks for a certificate (TLS)")]
    if address == "auto":
        return []
    if asks_for_token(address):
        return [ok("authentication", "the cluster asks for a token")]
    what = "the cluster asks for no token: whoever reaches it can run code on it"
    remedy = f"start it with {MODE}=token and a token (`ray get-auth-token --generate`)"
    return [warning("authentication", what, remedy)]


def check_ports() -> list[Finding]:
    """Of loopback. Nothing here is wrong by itself: vitray's own commands take others where they may."""
    used = [f"{port} ({what})" for port, what in _PORTS.items() if _in_use(port)]
    return [ok("ports", f"in use: {', '.join(used)}" if used else "the usual ones are free")]


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False
