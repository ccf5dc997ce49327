"""The spool: what was taken is there after a kill, what was torn is recognised, one process at a time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.errors import TrackingError
from vitray.tracking import spool as spools
from vitray.tracking.spool import Record, Spool, folder_of, leftovers


def read_all(spool: Spool, max_bytes: int = 2**20) -> list[Record]:
    records, offset = [], 0
    while offset < spool.size:
        found, offset = spool.read(offset, max_bytes=max_bytes)
        records += found
    return records


def filled(folder: Path, count: int = 5) -> Path:
    spool = Spool(folder)
    for number in range(count):
        spool.append("metrics", {"step": number, "values": {"loss": 1 / 3, "ü": float(number)}})
    spool.close()
    return folder / "log.jsonl"


def test_records_come_back_in_order_and_numbered(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    spool = Spool(tmp_path / "run")
    spool.append("end", {"status": "FINISHED"}, durable=True)
    records = read_all(spool)
    assert [r.seq for r in records] == [1, 2, 3, 4, 5, 6]
    assert records[2].body == {"step": 2, "values": {"loss": 1 / 3, "ü": 2.0}}
    assert records[-1].kind == "end"
    assert read_all(spool, max_bytes=10) == records  # blocks smaller than a line
    spool.close()


@settings(max_examples=25)
@given(cut=st.integers(0, 10_000), rubbish=st.binary(max_size=40))
def test_a_file_cut_anywhere_keeps_its_whole_lines(cut: int, rubbish: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = filled(Path(folder) / "run")
        whole = file.read_bytes()
        cut %= len(whole) + 1
        file.write_bytes(whole[:cut] + rubbish)
        spool = Spool(file.parent)
        lines = whole[:cut].count(b"\n")
        assert [r.body["step"] for r in read_all(spool)] == list(range(lines))
        spool.append("metrics", {"step": 99})  # and what follows is not glued to the torn end
        assert [(r.seq, r.body["step"]) for r in read_all(spool)][-1] == (lines + 1, 99)
        spool.close()


def test_a_damaged_line_is_skipped_and_the_others_stay(tmp_path: Path) -> None:
    file = filled(tmp_path / "run")
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"step":1', b'"step":7')
    file.write_bytes(b"".join(lines))
    spool = Spool(tmp_path / "run")
    assert [r.body["step"] for r in read_all(spool)] == [0, 2, 3, 4]
    assert spool.damaged == 1
    spool.close()


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run")
    with pytest.raises(TrackingError, match="another process") as error:
        Spool(tmp_path / "run", wait_s=0.1)
    assert error.value.exit_code == 2
    spool.close()
    Spool(tmp_path / "run", wait_s=0.1).remove()
    assert not (tmp_path / "run").exists()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from vitray.tracking.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path(sys.argv[1]))
spool.append("metrics", {"step": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (spool.size + 20, spool.size + 1000))
for _ in range(3):
    try:
        spool.append("metrics", {"step": 1})
        sys.exit("the disk is full, yet it was taken")
    except OSError:
        pass
resource.setrlimit(resource.RLIMIT_FSIZE, (spool.size + 1000, spool.size + 1000))
spool.append("metrics", {"step": 2})
print([(r.seq, r.body["step"]) for r in spool.read(0)[0]])
"""


def test_a_full_disk_leaves_no_half_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "run")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[(1, 0), (2, 2)]", done.stderr


FULL_WHILE_LAID_OUT = """
import gzip, resource, signal, sys
from pathlib import Path
from vitray.tracking.spool import Spool, compacted_file, encode
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lines = b"".join(encode(seq, "metrics", {"step": seq, "x": "%x" % 2**seq}) for seq in range(1, 400))

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def fails(do):
    try:
        do()
    except OSError:
        return True
    return False

spool = Spool(Path(sys.argv[1]))
spool.append("metrics", {"step": 0})
limit(len(lines) // 2)
print(fails(lambda: spool.refill(lines)), spool.size, (spool.folder / "log.jsonl").stat().st_size)
limit(resource.RLIM_INFINITY)
spool.refill(lines)
spool.append("end", {})
print(spool.size > len(lines), spool.read(0)[0][-1].seq)
spool.compact()
file = compacted_file(Path(sys.argv[1]))
before = file.read_bytes()

spool = Spool(Path(sys.argv[1]))
spool.refill(lines)
limit(len(before) + 100)
print(fails(spool.compact), file.read_bytes() == before, spool.size == len(lines), len(list(file.parent.iterdir())))
limit(resource.RLIM_INFINITY)
spool.compact()
print(gzip.decompress(file.read_bytes()).count(lines))
"""


def test_a_full_disk_leaves_neither_half_of_a_spool_nor_of_a_compacted_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_WHILE_LAID_OUT, str(tmp_path / "run")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["True 0 0", "True 400", "True True True 1", "2"], done.stderr


def test_state_is_only_believed_when_it_fits(tmp_path: Path) -> None:
    file = filled(tmp_path / "run")
    spool = Spool(tmp_path / "run")
    assert spool.load_state() == {}
    spool.save_state({"offset": spool.size})
    assert spool.load_state() == {"offset": spool.size}
    spool.save_state({"offset": spool.size + 1})  # of a file that has lost its end since
    assert spool.load_state() == {}
    (file.parent / "state.json").write_text('{"offset": ')
    assert spool.load_state() == {}
    spool.close()


def test_artifacts_are_copied_unless_they_are_large_and_lasting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "COPY_LIMIT_BYTES", 10)
    spool = Spool(tmp_path / "spool")
    large = tmp_path / "kept" / "model.bin"
    large.parent.mkdir()
    large.write_bytes(bytes(100))
    temporary = Path(spool.keep_file(large))  # pytest's folder lies below the temporary folder, so even large is copied
    assert temporary != large
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    assert Path(spool.keep_file(large)) == large
    large.write_bytes(bytes(5))
    copy = Path(spool.keep_file(large))
    large.unlink()
    assert (copy.name, copy.read_bytes()) == ("model.bin", bytes(5))
    spool.remove()


def test_names_that_read_alike_have_their_own_folders(tmp_path: Path) -> None:
    folders = {folder_of(tmp_path, run) for run in ("a/b", "a-b", "a b", "../a", "a" * 200, "é")}
    assert len(folders) == 6
    assert all(folder.parent == tmp_path for folder in folders)


def test_leftovers_put_parents_first(tmp_path: Path) -> None:
    def start(run: str, stamp: int, **more: Any) -> None:
        spool = Spool(folder_of(tmp_path, run))
        spool.append("start", {"run": run, "timestamp_ms": stamp, **more})
        spool.close()

    start("child-1", 5, parent="parent")
    start("parent", 5, parent=None)
    start("child-0", 7, parent="parent")
    assert leftovers(tmp_path) == [folder_of(tmp_path, run) for run in ("parent", "child-1", "child-0")]
    assert leftovers(tmp_path / "nowhere") == []
