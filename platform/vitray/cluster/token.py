"""Ray's token: where this process finds it, and a file for it that nobody else can read.

A local Ray lets nobody in without one, so one is made where there is none. Ray would write the file readable for all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from functools import cache
from pathlib import Path

from vitray.errors import ResourceError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"  # Ray's own variables
TOKEN_REMEDY = "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (its head node prints it: `ray get-auth-token`)"


def token_refused(target: str, token: str | None) -> ResourceError:
    """What is said of a cluster that turned away this process, which sent ``token``."""
    what = "the cluster refuses the token of this process" if token else "the cluster wants a token"
    return ResourceError(what, where=target, remedy=TOKEN_REMEDY)


def token_sent() -> str | None:
    """What Ray would send to a cluster: nothing unless RAY_AUTH_MODE=token."""
    return token_at_hand() if os.environ.get(MODE, "").lower() == "token" else None


def token_at_hand() -> str | None:
    """The token in the first of the three places that Ray documents; None where there is none, or it is unreadable."""
    if token := os.environ.get(TOKEN):
        return token.strip()
    try:
        return token_file().read_text().strip() or None
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None


def token_file() -> Path:
    """The file that Ray reads: the named one, else ``~/.ray/auth_token``.

    Raises:
        RuntimeError: there is no home directory.
    """
    named = os.environ.get(TOKEN_PATH)
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def prepare_token() -> None:
    """Prepare this process's environment for a Ray that it is going to start, which then asks for a token.

    A token that there is, is used. Else one is made, in the usual file and for its owner alone; several processes that
    make one at once agree on it. Where no file can be written, it is kept in this process's environment.

    Raises:
        ResourceError: RAY_AUTH_TOKEN_PATH names a file without a token.
    """
    if os.environ.get(MODE, "").lower() != "token":
        os.environ.pop(MODE, None)  # "disabled" was meant for another cluster; left to itself, Ray turns tokens on
    if os.environ.get(TOKEN):
        return
    if token_at_hand() is None:
        if named := os.environ.get(TOKEN_PATH):
            raise ResourceError(
                "there is no token in this file", where=f"{TOKEN_PATH}={named}", remedy=f"correct or unset {TOKEN_PATH}"
            )
        try:
            _make(token_file())
        except (OSError, RuntimeError):
            os.environ[TOKEN] = _of_this_process()
            return
    tighten()


def tighten() -> None:
    """Take a token file of ours from the others who could read it. One that is named was made so by somebody else."""
    if not os.environ.get(TOKEN_PATH):
        with contextlib.suppress(OSError, RuntimeError):
            file = token_file()
            found = file.stat()
            if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o077:
                file.chmod(0o600)


def _make(file: Path) -> None:
    """The file appears whole: Ray of another process may read it at any moment."""
    file.parent.mkdir(mode=0o700, exist_ok=True)  # not the home itself, where there is none
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as written:
            written.write(secrets.token_hex(32))
            written.flush()
            os.fsync(written.fileno())
        try:
            file.hardlink_to(new)
        except FileExistsError:  # another process was first, or there is an empty file
            if token_at_hand() is None:
                new.replace(file)
    finally:
        new.unlink(missing_ok=True)


@cache
def _of_this_process() -> str:
    """The same for every Ray that this process starts: Ray keeps a token that it has read."""
    return secrets.token_hex(32)
