"""Where a run's checkpoints lie: in its folder, or where ``train.checkpoints`` says. Imports no torch."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pyarrow as pa

from vitray.data.folder import Folder, why
from vitray.data.shards import locate
from vitray.data.uri import is_uri
from vitray.errors import ConfigError, DataError
from vitray.masking import public
from vitray.train.checkpoint_names import History

_KEY = "train.checkpoints"
_POINTER = "checkpoints.uri"  # in the run's folder, if they lie elsewhere


def place_of(run_dir: Path) -> str:
    """The folder of a run's checkpoints: a local path, or a URI."""
    return _pointed(run_dir) or str(run_dir / "checkpoints")


def _pointed(run_dir: Path) -> str | None:
    try:
        return (run_dir / _POINTER).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def take_place(run_dir: Path, wanted: str | None) -> str:
    """The same of a run that begins, or goes on: what was said when it began counts. Each run has a folder of its own.

    Args:
        wanted: the config's ``train.checkpoints``.
    """
    if wanted is None or _pointed(run_dir) is not None or (run_dir / "checkpoints").exists():
        return place_of(run_dir)
    parts = run_dir.parts[-1:]
    if "runs" in run_dir.parts:
        parts = run_dir.parts[len(run_dir.parts) - run_dir.parts[::-1].index("runs") :] or parts
    place = below(wanted, "/".join(parts) + f"-{secrets.token_hex(4)}")
    run_dir.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, also after a power cut: a run whose place is forgotten would begin anew, elsewhere.
    draft = run_dir / f".{_POINTER}.{os.getpid()}.draft"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # a URI may hold a key
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(place + "\n")
            file.flush()
            os.fsync(descriptor)
        draft.replace(run_dir / _POINTER)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return place


def below(place: str, name: str) -> str:
    """A folder or file in a place; a URI's options stay behind it."""
    if not is_uri(place):
        return str(Path(place) / name)
    path, mark, options = place.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def opened(place: str | Path | Folder) -> Folder:
    """Raises DataError where it is no URI that pyarrow knows."""
    return place if isinstance(place, Folder) else Folder(*locate(str(place)))


def has_checkpoints(run_dir: Path) -> bool:
    """Whether there is anything to go on from. Raises OSError where storage does not answer."""
    return bool(History.of(opened(place_of(run_dir))).committed)


def check_place(wanted: str | None) -> None:
    """Write a file where checkpoints are wanted, and remove it.

    Raises:
        ConfigError: it cannot be.
    """
    if wanted is None:
        return
    remedy = "check the address, and that it may be written from here; or leave it unset for the run's own folder"
    probe = f".vitray-{secrets.token_hex(4)}"
    try:
        folder = opened(wanted)
        if folder.on_disk:
            Path(folder.base).mkdir(parents=True, exist_ok=True)
        with folder.create(probe) as stream:
            stream.write(b"vitray")
        folder.remove(probe)
    except DataError as error:
        raise ConfigError(error.what, where=_KEY, remedy=remedy) from None
    except (OSError, pa.ArrowException) as error:
        said = why(error) if isinstance(error, OSError) else public(str(error).partition("\n")[0])
        raise ConfigError(f"{public(wanted)} cannot be written: {said}", where=_KEY, remedy=remedy) from None
