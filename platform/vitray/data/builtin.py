"""Datasets that come with vitray: named ``builtin:...``, prepared under ``$VITRAY_HOME/data`` when first used."""

from __future__ import annotations

from pathlib import Path

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

    folder = Home.find().data / path.removeprefix(_PREFIX)
    if not (folder / "manifest.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            prepare(path, str(folder))
        except DataError:
            if not (folder / "manifest.json").is_file():  # else another process was first, and made the same bytes
                raise
    return str(Path(folder))
