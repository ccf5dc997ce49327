"""Datasets that come with vitray: named ``builtin:...``, prepared under ``$VITRAY_HOME/data`` when first used."""

from __future__ import annotations

from pathlib import Path

from vitray.data.manifest import MANIFEST, SCHEMA_VERSION
from vitray.errors import DataError
from vitray.home import Home

_PREFIX = "builtin:"


def dataset_folder(path: str) -> str:
    """The folder or URI of a dataset; a built-in one is prepared if it is not there yet.

    Raises:
        DataError: no built-in dataset of that name.
    """
    if not path.startswith(_PREFIX):
        return path
    from vitray.data.prepare import prepare

    # The version in the name: a folder of an earlier vitray is not in the way of this one.
    folder = Home.find().data / f"{path.removeprefix(_PREFIX)}-v{SCHEMA_VERSION}"
    if not (folder / MANIFEST).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            prepare(path, str(folder), executor="local")  # a Ray that runs is busy with what asks for it
        except DataError:
            if not (folder / MANIFEST).is_file():  # else another process was first, and made the same bytes
                raise
    return str(Path(folder))
