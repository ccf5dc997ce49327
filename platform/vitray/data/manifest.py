"""What a dataset folder says about itself: ``manifest.json``, written last, so a folder without it is no dataset."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitray.errors import DataError

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.parquet"
MARKER = ".preparing.json"  # lies where a dataset cannot be built beside its destination, until it is one
SPLITS = ("train", "val", "test")
SCHEMA_VERSION = 2

_NOT_IDENTITY = {"source", "seed", "refused", "duplicates", "converted", "fingerprint"}
_MEND = "copy the dataset again from where it was made, or prepare it again"


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One Parquet file. ``file`` is relative to the dataset folder; ``bytes`` and ``sha256`` are of the whole file.

    ``index`` is a digest of the row index in its footer, which has a checksum of every image: who reads the footer
    knows whether this is the file that belongs here, without reading the file. Empty in manifests of earlier versions.
    """

    file: str
    rows: int
    row_groups: int
    bytes: int
    sha256: str
    index: str = ""


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """One split: its rows, how many of them carry each class (in the order of ``classes``), and its shards in order.

    ``pixels`` is what the decoded images take: the sum of width x height x channels over its rows, in bytes.
    """

    rows: int
    pixels: int
    class_counts: tuple[int, ...]
    shards: tuple[ShardInfo, ...]

    @property
    def row_groups(self) -> int:
        return sum(shard.row_groups for shard in self.shards)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A dataset's description.

    Attributes:
        source: what it was prepared from; not part of the fingerprint, since a moved source holds the same images.
        classes: names, sorted; a label is an index into them.
        rows_per_group: rows of every row group, except a split's last, which may be short.
        channels: 1 when every image is grayscale, else 3.
        image_size: (height, width) shared by all images, or None when they differ.
        mean, std: one value a channel over the train split's pixels in [0, 1] units, every image weighing the same;
            ``std`` is at least 1/255, so that dividing by it is always safe.
        refused: images that went to quarantine.
        duplicates: rows that repeat the bytes of another row (all of them are in one split).
        converted: how many images were found as what is not stored as it is, by kind (``{"cmyk": 3}``).
        fingerprint: sha256 of all content above that decides what is trained on.
    """

    source: str
    seed: int
    classes: tuple[str, ...]
    rows_per_group: int
    channels: int
    image_size: tuple[int, int] | None
    splits: dict[str, SplitInfo]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    refused: int = 0
    duplicates: int = 0
    converted: dict[str, int] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def fingerprint(self) -> str:
        content = {key: value for key, value in self._fields().items() if key not in _NOT_IDENTITY}
        for split in content["splits"].values():
            for shard in split["shards"]:
                del shard["index"]  # it follows from the rest, and earlier versions had none
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _fields(self) -> dict[str, Any]:
        return {
            "schema_version": self.schema_version,
            "source": self.source,
            "seed": self.seed,
            "classes": list(self.classes),
            "rows_per_group": self.rows_per_group,
            "image": {"channels": self.channels, "size": list(self.image_size) if self.image_size else None},
            "splits": {name: dataclasses.asdict(self.splits[name]) for name in SPLITS},
            "mean": list(self.mean),
            "std": list(self.std),
            "refused": self.refused,
            "duplicates": self.duplicates,
            "converted": self.converted,
        }

    def to_json(self) -> str:
        return json.dumps(self._fields() | {"fingerprint": self.fingerprint}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> Manifest:
        """Parse and check ``manifest.json``; ``where`` names the file in errors.

        Raises:
            DataError: not JSON, another schema version, a field missing, numbers that do not add up, or content that
                differs from the fingerprint it was written with.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:  # bad UTF-8 is one, too
            raise DataError(f"is not JSON ({error})", where=where, remedy=_MEND) from None
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version is None:
            raise DataError("is not a vitray manifest", where=where, remedy="vitray data prepare SOURCE DEST makes one")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"has schema version {version}; this vitray reads {SCHEMA_VERSION}",
                where=where,
                remedy="prepare the dataset again, or use the vitray that made it",
            )
        try:
            manifest = cls._from_fields(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else f"has a field of the wrong kind ({error})"
            raise DataError(reason, where=where, remedy=_MEND) from None
        if manifest.fingerprint != raw.get("fingerprint"):
            raise DataError("was altered: its content and its fingerprint differ", where=where, remedy=_MEND)
        manifest._check_sums(where)
        return manifest

    @classmethod
    def _from_fields(cls, raw: dict[str, Any]) -> Manifest:
        size = raw["image"]["size"]
        return cls(
            schema_version=raw["schema_version"],
            source=raw["source"],
            seed=raw["seed"],
            classes=tuple(raw["classes"]),
            rows_per_group=raw["rows_per_group"],
            channels=raw["image"]["channels"],
            image_size=(size[0], size[1]) if size else None,
            splits={
                name: SplitInfo(
                    rows=raw["splits"][name]["rows"],
                    pixels=raw["splits"][name]["pixels"],
                    class_counts=tuple(raw["splits"][name]["class_counts"]),
                    shards=tuple(ShardInfo(**shard) for shard in raw["splits"][name]["shards"]),
                )
                for name in SPLITS
            },
            mean=tuple(raw["mean"]),
            std=tuple(raw["std"]),
            refused=raw["refused"],
            duplicates=raw["duplicates"],
            converted={str(name): int(count) for name, count in raw["converted"].items()},
        )

    def _check_sums(self, where: str) -> None:
        """Readers find a row by arithmetic alone, so what the arithmetic rests on must hold."""
        for name, split in self.splits.items():
            whole = all(shard.rows == shard.row_groups * self.rows_per_group for shard in split.shards[:-1])
            groups = -(-split.rows // self.rows_per_group)
            if not whole or split.row_groups != groups or sum(shard.rows for shard in split.shards) != split.rows:
                raise DataError(f"the shards of {name!r} do not add up to its rows", where=where, remedy=_MEND)

    def write(self, folder: Path) -> None:
        """Write ``folder/manifest.json`` so that a reader sees all of it or none."""
        draft = folder / f".{MANIFEST}.draft"
        with draft.open("w", encoding="utf-8") as file:
            file.write(self.to_json())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / MANIFEST)
