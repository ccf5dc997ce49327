"""Sources and destinations on an S3-compatible server, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from listed import contents
from s3_server import KEY, SECRET, Bucket

from vitray.cluster.local import Cluster
from vitray.data.prepare import prepare
from vitray.data.shards import ShardStore
from vitray.data.verify import verify
from vitray.errors import DataError

pytestmark = pytest.mark.slow

MakeFolder = Callable[..., Path]
OPTIONS = {"rows_per_group": 8, "shard_mb": 0.02, "max_bad_fraction": 0.1, "size": 20}


@pytest.fixture
def pictures(make_folder: MakeFolder) -> Path:
    folder = make_folder()
    (folder / "cat/empty.jpg").touch()
    return folder


def test_from_s3_to_s3_is_as_from_folder_to_folder(bucket: Bucket, pictures: Path, tmp_path: Path) -> None:
    for name, data in contents(pictures).items():
        bucket.put(f"pictures/{name}", data)
    prepare(str(pictures), tmp_path / "ds", **OPTIONS)  # type: ignore[arg-type]
    manifest = prepare(bucket.uri("pictures"), bucket.uri("deep/ds"), **OPTIONS)  # type: ignore[arg-type]
    want, found = contents(tmp_path / "ds"), bucket.files("deep/ds")
    assert {name: data for name, data in found.items() if name != "manifest.json"} == {
        name: data for name, data in want.items() if name != "manifest.json"
    }
    store = ShardStore.open(bucket.uri("deep/ds"))
    assert store.fingerprint == ShardStore.open(tmp_path / "ds").fingerprint == manifest.fingerprint
    assert verify(store) == []
    assert store.read_group("train", 0) == ShardStore.open(tmp_path / "ds").read_group("train", 0)
    shown = store.shown + manifest.source + found["manifest.json"].decode()
    assert KEY not in shown
    assert SECRET not in shown


def test_errors_name_the_bucket_and_not_the_key(bucket: Bucket, s3_port: int, tmp_path: Path) -> None:
    bucket.put("used/thesis.tex", b"years of work")
    bucket.put("damaged/manifest.json", b"{")
    nowhere = Bucket(s3_port, "no-such-bucket")
    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: prepare("builtin:digits", bucket.uri("used")), "thesis.tex"),
        (lambda: prepare("builtin:digits", nowhere.uri("ds")), "no-such-bucket"),
        (lambda: prepare(nowhere.uri("pictures"), tmp_path / "ds"), "no-such-bucket"),
        (lambda: prepare(bucket.uri("used"), bucket.uri("used/ds")), "inside or around"),
        (lambda: ShardStore.open(bucket.uri("used")), "it has no manifest.json"),
        (lambda: ShardStore.open(bucket.uri("nothing")), "there is no such dataset"),
        (lambda: ShardStore.open(bucket.uri("damaged")), "is not JSON"),
        (lambda: ShardStore.open(bucket.uri("a") + "&nonsense=1"), "cannot be opened"),
    ]
    for attempt, says in attempts:
        with pytest.raises(DataError) as error:
            attempt()
        assert says in str(error.value)
        assert KEY not in str(error.value)
        assert SECRET not in str(error.value)
    assert set(bucket.files()) == {"used/thesis.tex", "damaged/manifest.json"}


def test_overwriting_replaces_all_of_it(bucket: Bucket) -> None:
    prepare("builtin:digits", bucket.uri("ds"), shard_mb=0.02)
    with pytest.raises(DataError, match="holds a dataset already"):
        prepare("builtin:digits", bucket.uri("ds"))
    many = bucket.files("ds")
    prepare("builtin:digits", bucket.uri("ds"), overwrite=True)
    few = bucket.files("ds")
    assert len(few) < len(many)
    assert verify(ShardStore.open(bucket.uri("ds"))) == []


@pytest.mark.parametrize("phase", ["scan", "write"])
def test_a_killed_one_is_no_dataset_and_is_begun_again(
    bucket: Bucket, pictures: Path, tmp_path: Path, phase: str
) -> None:
    script = (
        "import os, signal, sys\n"
        "from vitray.data.prepare import prepare\n"
        f"die = lambda phase, done, total: phase == {phase!r} and os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare(sys.argv[1], os.environ['DEST'], size=20, max_bad_fraction=0.1, progress=die)\n"
    )
    dest = bucket.uri("ds")
    killed = subprocess.run(
        [sys.executable, "-c", script, str(pictures)], env={**os.environ, "DEST": dest}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert ".preparing.json" in bucket.files("ds")
    with pytest.raises(DataError, match="not a dataset yet"):
        ShardStore.open(dest)
    prepare(str(pictures), dest, size=20, max_bad_fraction=0.1)
    prepare(str(pictures), tmp_path / "ds", size=20, max_bad_fraction=0.1)
    assert bucket.files("ds") == contents(tmp_path / "ds")


def test_a_failure_leaves_nothing_there(bucket: Bucket, pictures: Path) -> None:
    with pytest.raises(DataError, match="cannot be used"):
        prepare(str(pictures), bucket.uri("ds"), size=20, max_bad_fraction=0)
    assert bucket.files() == {}


@pytest.mark.ray
def test_on_ray_the_tasks_write_there_themselves(
    cluster: Cluster, bucket: Bucket, pictures: Path, tmp_path: Path
) -> None:
    for name, data in contents(pictures).items():
        bucket.put(f"pictures/{name}", data)
    for executor in ("local", "ray"):
        prepare(bucket.uri("pictures"), bucket.uri(executor), executor=executor, **OPTIONS)  # type: ignore[arg-type]
    assert bucket.files("ray") == bucket.files("local")
    with pytest.raises(DataError, match="cannot be used"):
        prepare(str(pictures), bucket.uri("bad"), executor="ray", size=20, max_bad_fraction=0)
    assert set(bucket.files("bad")) == {".preparing.json"}  # a task might be writing yet; the next one clears it
    prepare(str(pictures), bucket.uri("bad"), executor="ray", **OPTIONS)  # type: ignore[arg-type]
    assert ".preparing.json" not in bucket.files("bad")
