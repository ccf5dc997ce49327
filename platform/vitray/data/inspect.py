"""A look into a dataset: its numbers, and a few images of each class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vitray.data.decode import Image, decode
from vitray.data.shards import ShardStore

_GROUPS = 500  # a class too rare to show up in this many row groups is shown with what was found


def summary(store: ShardStore) -> dict[str, Any]:
    """The manifest's figures as plain values, ready for JSON; sizes in bytes, image size (height, width) or None."""
    manifest = store.manifest
    return {
        "path": store.shown,
        "source": manifest.source,
        "fingerprint": manifest.fingerprint,
        "classes": list(manifest.classes),
        "channels": manifest.channels,
        "image_size": list(manifest.image_size) if manifest.image_size else None,
        "rows_per_group": manifest.rows_per_group,
        "mean": list(manifest.mean),
        "std": list(manifest.std),
        "refused": manifest.refused,
        "duplicates": manifest.duplicates,
        "converted": manifest.converted,
        "splits": {
            name: {
                "rows": split.rows,
                "row_groups": split.row_groups,
                "shards": len(split.shards),
                "bytes": sum(shard.bytes for shard in split.shards),
                "class_counts": dict(zip(manifest.classes, split.class_counts, strict=True)),
            }
            for name, split in manifest.splits.items()
        },
    }


def samples(
    store: ShardStore, labels: Iterable[int], *, per_class: int, split: str = "train"
) -> dict[int, list[Image]]:
    """The first ``per_class`` images of each wanted label, (H, W, C) uint8.

    Rows are in random order already, so the first ones are a fair sample. Labels are read before images, so a row
    group without a wanted image costs next to nothing.
    """
    found: dict[int, list[Image]] = {label: [] for label in labels}
    lacking = set(found)
    for group in range(min(store.num_groups(split), _GROUPS)):
        if not lacking:
            break
        here = store.read_group(split, group, columns=["label"])["label"].to_pylist()
        if lacking.isdisjoint(here):
            continue
        images = store.read_group(split, group, columns=["image"])["image"]
        for label, image in zip(here, images, strict=True):
            if label in lacking:
                found[label].append(decode(image.as_py(), store.manifest.channels))
                if len(found[label]) == per_class:
                    lacking.discard(label)
    return found
