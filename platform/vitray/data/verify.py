"""Is a dataset, byte for byte, what was written?"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from vitray.data.manifest import MANIFEST, MARKER, QUARANTINE, ShardInfo
from vitray.data.shards import IO_THREADS, Finding, ShardStore


def verify(store: ShardStore) -> list[Finding]:
    """Re-hash every shard in parallel and look for strangers; an empty list means the bytes are those written.

    Start from ``ShardStore.open(path, check=False)``, so that all that is wrong is listed, not only the first.
    """
    wrong_size = {finding.file: finding for finding in store.sizes()}
    rest = [shard for shard in store.shards() if shard.file not in wrong_size]
    filesystem, base = store.filesystem()

    def rehash(shard: ShardInfo) -> Finding | None:
        digest = hashlib.sha256()
        try:
            with filesystem.open_input_stream(f"{base}/{shard.file}") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
        except OSError as error:
            return Finding(shard.file, f"cannot be read ({error})")
        same = digest.hexdigest() == shard.sha256
        return None if same else Finding(shard.file, "its bytes changed: the sha256 is not the manifest's")

    with ThreadPoolExecutor(IO_THREADS) as pool:
        changed = [finding for finding in pool.map(rehash, rest) if finding]
    ours = {shard.file for shard in store.shards()} | {MANIFEST, QUARANTINE, MARKER}
    below = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
    names = [info.path.removeprefix(base).lstrip("/") for info in below if info.type == pafs.FileType.File]
    foreign = [Finding(name, "is foreign: the manifest does not list it") for name in names if name not in ours]
    return sorted([*wrong_size.values(), *changed, *foreign], key=lambda finding: finding.file)
