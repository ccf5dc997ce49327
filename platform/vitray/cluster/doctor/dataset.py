"""Can the dataset be read from here?"""

from __future__ import annotations

from vitray.cluster.doctor.finding import Finding, ok, refused
from vitray.errors import VitrayError


def check(path: str) -> list[Finding]:
    """Its manifest; a builtin one is made on first use, and not by a doctor."""
    if path.startswith("builtin:"):
        return [ok("dataset", f"{path} comes with vitray")]
    from vitray.data.images import ShardedImages

    try:
        data = ShardedImages.open(path)
    except VitrayError as error:
        return [refused("dataset", error)]
    images = sum(data.num_samples(split) for split in ("train", "val", "test"))
    return [ok("dataset", f"{data.store.shown}: {images:,} images, fingerprint {data.fingerprint[:8]}")]
