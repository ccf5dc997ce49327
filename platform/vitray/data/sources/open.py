"""From the text a user gives to the source it means."""

from __future__ import annotations

from vitray.data.sources.source import Source, Splits


def open_source(
    spec: str,
    *,
    splits: Splits = "fractions",
    path_column: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
) -> Source:
    """The source that ``spec`` names.

    Raises:
        DataError: nothing that can be a source; lists the forms one can take.
    """
    raise NotImplementedError
