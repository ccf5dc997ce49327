"""A destination is a whole dataset or none, whatever happens and whoever else is there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from listed import contents

from vitray.data.prepare import prepare
from vitray.data.shards import ShardStore
from vitray.data.verify import verify
from vitray.errors import DataError

pytestmark = pytest.mark.slow

MakeFolder = Callable[..., Path]


def test_a_used_destination_is_left_alone(make_folder: MakeFolder, tmp_path: Path) -> None:
    source, dest = make_folder(), tmp_path / "ds"
    prepare(str(source), dest)
    with pytest.raises(DataError, match="holds a dataset already") as error:
        prepare(str(source), dest)
    assert "--overwrite" in str(error.value)
    replaced = prepare(str(source), dest, seed=1, overwrite=True)
    assert ShardStore.open(dest).fingerprint == replaced.fingerprint
    (dest / "train/thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"train/thesis\.tex"):
        prepare(str(source), dest, overwrite=True)
    for bad in (source, source / "cat/ds", f"file://{source}/ds"):
        with pytest.raises(DataError, match="inside or around"):
            prepare(str(source), bad)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        prepare(str(source), tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ds", "file", "pictures"]


@pytest.mark.parametrize("phase", ["scan", "write"])
def test_an_interrupt_leaves_nothing(make_folder: MakeFolder, tmp_path: Path, phase: str) -> None:
    def interrupt(now: str, done: int, total: int) -> None:
        if now == phase:
            raise KeyboardInterrupt

    source = make_folder()
    for dest in (str(tmp_path / "ds"), f"file://{tmp_path}/uri"):
        with pytest.raises(KeyboardInterrupt):
            prepare(str(source), dest, size=10, progress=interrupt)
    assert contents(tmp_path).keys() == {f"pictures/{name}" for name in contents(source)}


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("phase", ["scan", "write"])
def test_a_killed_prepare_leaves_no_dataset_and_the_next_one_sweeps(
    make_folder: MakeFolder, tmp_path: Path, scheme: str, phase: str
) -> None:
    source, dest = make_folder(), tmp_path / "out/ds"
    script = (
        "import os, signal, sys\n"
        "from vitray.data.prepare import prepare\n"
        f"die = lambda phase, done, total: phase == {phase!r} and os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare(sys.argv[1], sys.argv[2], size=10, progress=die)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(source), f"{scheme}{dest}"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(contents(tmp_path / "out")) > 0
    with pytest.raises(DataError, match="not a dataset yet: its preparation" if scheme else "no such dataset"):
        ShardStore.open(f"{scheme}{dest}")
    prepare(str(source), f"{scheme}{dest}", size=10)
    assert list((tmp_path / "out").iterdir()) == [dest]
    prepare(str(source), tmp_path / "undisturbed", size=10)
    assert contents(dest) == contents(tmp_path / "undisturbed")
    assert verify(ShardStore.open(dest)) == []


def test_of_several_at_once_one_wins_and_the_others_say_so(make_folder: MakeFolder, tmp_path: Path) -> None:
    source, dest = make_folder(), tmp_path / "out/ds"

    def attempt(seed: int) -> str:
        try:
            return prepare(str(source), dest, seed=seed).fingerprint
        except DataError as error:
            return error.what

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(attempt, range(4)))
    assert results.count(ShardStore.open(dest).fingerprint) == 1
    assert set(results) - {ShardStore.open(dest).fingerprint} <= {
        "was filled by somebody else meanwhile",
        "holds a dataset already",
    }
    assert list((tmp_path / "out").iterdir()) == [dest]
    assert verify(ShardStore.open(dest)) == []


def test_a_uri_gets_the_bytes_that_a_folder_gets(make_folder: MakeFolder, tmp_path: Path) -> None:
    source = make_folder()
    (source / "cat/bad.jpg").touch()
    options = {"max_bad_fraction": 0.1, "size": 10, "rows_per_group": 8}
    prepare(str(source), tmp_path / "folder", **options)  # type: ignore[arg-type]
    prepare(str(source), f"file://{tmp_path}/uri/ds", **options)  # type: ignore[arg-type]
    assert contents(tmp_path / "uri/ds") == contents(tmp_path / "folder")
    with pytest.raises(DataError, match="holds a dataset already"):
        prepare(str(source), f"file://{tmp_path}/uri/ds")
    (tmp_path / "uri/ds/test/mine.txt").touch()
    with pytest.raises(DataError, match=r"test/mine\.txt"):
        prepare(str(source), f"file://{tmp_path}/uri/ds", overwrite=True)
    (tmp_path / "uri/ds/test/mine.txt").unlink()
    prepare(str(source), f"file://{tmp_path}/uri/ds", overwrite=True, max_bad_fraction=0.1)
    assert verify(ShardStore.open(tmp_path / "uri/ds")) == []


def test_what_is_not_ours_beside_an_unfinished_dataset_stays(make_folder: MakeFolder, tmp_path: Path) -> None:
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds/.preparing.json").write_text("{")  # killed while it wrote that
    (tmp_path / "ds/notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt"):
        prepare("builtin:digits", f"file://{tmp_path}/ds", overwrite=True)
    (tmp_path / "ds/notes.txt").unlink()
    prepare("builtin:digits", f"file://{tmp_path}/ds")
    assert verify(ShardStore.open(tmp_path / "ds")) == []


def test_where_another_process_prepares_nobody_else_does(tmp_path: Path) -> None:
    born = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    marker = {"id": "other", "host": socket.gethostname(), "pid": 1, "born": born}
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds/.preparing.json").write_text(json.dumps(marker))
    with pytest.raises(DataError, match="process 1 is preparing into this folder"):
        prepare("builtin:digits", f"file://{tmp_path}/ds")
    assert list(contents(tmp_path / "ds")) == [".preparing.json"]
    (tmp_path / "ds/.preparing.json").write_text(json.dumps(marker | {"born": "1" + born}))  # an earlier process 1
    prepare("builtin:digits", f"file://{tmp_path}/ds")


def test_one_that_is_taken_over_does_not_finish(tmp_path: Path) -> None:
    def take_over(phase: str, done: int, total: int) -> None:
        if phase == "write":
            (tmp_path / "ds/.preparing.json").write_text('{"id": "of another machine"}')

    with pytest.raises(DataError, match="another preparation took this folder over"):
        prepare("builtin:digits", f"file://{tmp_path}/ds", progress=take_over)
    left = contents(tmp_path / "ds")  # the other's now
    assert "manifest.json" not in left
    assert b"another machine" in left[".preparing.json"]


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="a small disk is mounted for this test, which needs user namespaces",
)
@pytest.mark.parametrize(("size", "kilobytes"), [(None, 200), (30, 90)])  # too small for the shards, for the staging
def test_a_full_disk_is_named_with_what_is_needed(tmp_path: Path, size: int | None, kilobytes: int) -> None:
    (tmp_path / "disk").mkdir()
    script = (
        "from vitray.data.prepare import prepare\n"
        "from vitray.errors import DataError\n"
        "try:\n"
        f"    prepare('builtin:synthetic?count=200&size=64', {str(tmp_path / 'disk/ds')!r}, size={size})\n"
        "except DataError as error:\n"
        "    print(error)\n"
        "import os\n"
        f"print(os.listdir({str(tmp_path / 'disk')!r}))\n"
    )
    mount = f'mount -t tmpfs -o size={kilobytes}k none {tmp_path / "disk"} && exec {sys.executable} -c "$SCRIPT"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount],
        env={**os.environ, "SCRIPT": script},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, left = done.stdout.splitlines()
    assert first == f"{tmp_path}/disk/ds: cannot be written: No space left on device"
    assert "make room" in second
    assert size is not None or "about 1 MB are needed there" in second
    assert left == "[]"
