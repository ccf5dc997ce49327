"""The data of a run as its page in the tracker shows them."""

from __future__ import annotations

from pathlib import PurePosixPath

from vitray.data.images import ShardedImages
from vitray.tracking.tracker import DatasetInput

_COLUMNS = (("image", "binary"), ("label", "long"), ("sample_id", "long"))


def as_input(data: ShardedImages, context: str = "training") -> DatasetInput:
    """Name, fingerprint, place and schema of a dataset. ``context``: what it is used for, in a word."""
    manifest = data.store.manifest
    size = "x".join(map(str, manifest.image_size)) if manifest.image_size else "differ"
    return DatasetInput(
        name=PurePosixPath(data.store.shown).name,
        fingerprint=data.fingerprint,
        source=data.store.shown,
        columns=_COLUMNS,
        facts={
            "num_rows": sum(split.rows for split in manifest.splits.values()),
            **{f"rows.{name}": split.rows for name, split in manifest.splits.items()},
            "classes": len(manifest.classes),
            "channels": manifest.channels,
            "image_size": size,
            "prepared_from": manifest.source,
        },
        context=context,
    )
