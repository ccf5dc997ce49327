"""Preparing on a cluster of several machines: a folder that not all of them see is refused, one that they share is not.

The second machine is emulated: a Ray node on this one, in a mount namespace of its own where one folder is another.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import Head

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0,
        reason="the second machine is emulated in a mount namespace, which is not allowed here",
    ),
]

_NODES = (
    "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); "
    "print(len([n for n in ray.nodes() if n['Alive']]))"
)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is empty on the second machine."""
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def two_machines(own: Path) -> Iterator[Head]:
    head = Head()
    try:
        head.start()
        start = f"exec ray start --block --address {head.address} --num-cpus 2 --num-gpus 0"
        worker = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs none {own} && {start}"],
            env=head.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while head.run(sys.executable, "-c", _NODES, head.address).stdout.strip().splitlines()[-1] != "2":
            assert worker.poll() is None
            time.sleep(1)
        yield head
    finally:
        head.stop()


def prepare(head: Head, source: str, dest: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "vitray.cli", "data", "prepare", source, str(dest), "--address", head.address]
    return head.run(*words)


def test_a_destination_that_not_all_machines_see_is_refused(two_machines: Head, own: Path) -> None:
    done = prepare(two_machines, "builtin:digits", own / "ds")
    assert done.returncode == 2
    assert "is not the same on " in done.stdout
    assert "use a folder that all its machines share, or a URI as in s3://bucket/folder" in done.stdout
    assert list(own.iterdir()) == []


def test_a_source_that_not_all_machines_see_is_refused(two_machines: Head, own: Path, tmp_path: Path) -> None:
    (own / "src/cat").mkdir(parents=True)
    (own / "src/cat/1.png").touch()
    done = prepare(two_machines, str(own / "src"), tmp_path / "ds")
    shutil.rmtree(own / "src")
    assert done.returncode == 2
    assert f"{own}/src: is not the same on " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_all_share_is_filled_by_all(two_machines: Head, tmp_path: Path) -> None:
    done = prepare(two_machines, "builtin:synthetic?count=3000&size=16", tmp_path / "ds")
    assert done.returncode == 0
    assert "3000/3000" in done.stdout
    assert sorted(path.name for path in (tmp_path / "ds").iterdir()) == ["manifest.json", "test", "train", "val"]
