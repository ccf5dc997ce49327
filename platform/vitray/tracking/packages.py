"""A model's package brought here from a place that is not local."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
from pathlib import Path

import pyarrow as pa

from vitray.data.folder import Folder, why
from vitray.data.shards import locate
from vitray.errors import DataError
from vitray.masking import public

FILES = ("model.safetensors", "model.json")
_CHUNK = 8 * 2**20


def fetch_uri(uri: str, cache: Path) -> Path:
    """The package at a URI (``s3://bucket/run/step-...``): a local folder as it is, another one copied below ``cache``.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    filesystem, inner = locate(uri)
    parent, _, name = inner.rpartition("/")
    folder = Folder(filesystem, parent)
    return Path(inner) if folder.on_disk else fetch_package(folder, name, cache)


def fetch_package(folder: Folder, name: str, cache: Path) -> Path:
    """A copy of the package ``name`` in ``folder``, made once: the name in the cache says what its description does.

    The weights' checksum is in the description, and whoever loads them compares it.

    Raises:
        DataError: it cannot be read.
    """
    where = public(f"{folder.filesystem.type_name}://{folder.base}/{name}")
    remedy = f"give a folder that holds {FILES[0]} and {FILES[1]}"
    try:
        about = folder.read(f"{name}/{FILES[1]}")
        if about is None:
            raise DataError(f"is not a model: no {FILES[1]} in it", where=where, remedy=remedy)
        target = cache / f"{name}-{hashlib.sha256(about).hexdigest()[:16]}"
        if target.is_dir():
            return target
        staged = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        staged.mkdir(parents=True)
        try:
            (staged / FILES[1]).write_bytes(about)
            with (
                folder.filesystem.open_input_stream(f"{folder.base}/{name}/{FILES[0]}") as source,
                (staged / FILES[0]).open("wb") as copy,
            ):
                while block := source.read(_CHUNK):
                    copy.write(block)
            with contextlib.suppress(OSError):  # somebody else was first
                staged.replace(target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return target
    except (OSError, pa.ArrowException) as error:
        said = why(error) if isinstance(error, OSError) else public(str(error).partition("\n")[0])
        raise DataError(
            f"cannot be read: {said}", where=where, remedy="check the address, and that it answers"
        ) from None
