"""WebDataset: samples in tar files, and every way in which they can be wrong."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.data.sources import Item, open_source
from vitray.errors import DataError

Members = list[tuple[str, bytes]]
WHOLE: Members = [
    (f"{i:03d}.{kind}", data) for i in range(5) for kind, data in (("jpg", bytes(700 * i)), ("cls", b"1"))
]


def member(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


def tar(path: Path, members: Members, format: int = tarfile.PAX_FORMAT) -> Path:  # noqa: A002
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members:
            member(archive, name, data)
    return path


def items(spec: Path | str, **options: Any) -> list[Item]:
    source = pickle.loads(pickle.dumps(open_source(str(spec), **options)))
    found = [item for chunk in source.chunks() for item in source.items(chunk)]
    assert len({item.key for item in found}) == len(found)
    assert all(source.reread(item.place) == item.data for item in found if item.problem is None)
    return found


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_belong_together_by_name(tmp_path: Path, format: int) -> None:  # noqa: A002
    deep = f"{'deep/' * 15}{'x' * 90}"  # longer than one header holds
    members = [
        ("./a/001.jpg", b"one"),
        ("./a/001.cls", b"3\n"),
        ("b/001.JSON", b'{"label": "cat", "x": 1}'),
        ("b/001.PNG", b"two"),
        ("README", b"hello"),
        ("b/._002.jpg", b"apple"),
        ("002.seg.png", b"mask"),
        ("002.webp", b"three"),
        ("002.txt", b"a cat"),
        ("002.json", b'{"cls": 7}'),
        ("002.cls", b"dog"),
        (f"{deep}.jpeg", b"four"),
        (f"{deep}.cls", b"007"),
    ]
    path = tar(tmp_path / "x.tar", members, format)
    assert [(item.key, item.label, item.data) for item in items(path)] == [
        ("x.tar/a/001", 3, b"one"),
        ("x.tar/b/001", "cat", b"two"),
        ("x.tar/002", "dog", b"three"),
        (f"x.tar/{deep}", "007", b"four"),
    ]


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        ([("1.cls", b"1")], "has no image"),
        ([("1.jpg", b"x")], "has no label (.cls or .json)"),
        ([("1.jpg", b"x"), ("1.cls", b" \n")], "its .cls is empty"),
        ([("1.jpg", b"x"), ("1.cls", b"\xff")], "its .cls is no UTF-8 text"),
        ([("1.jpg", b"x"), ("1.json", b"{")], "its .json cannot be read"),
        ([("1.jpg", b"x"), ("1.json", b"[" * 100_000)], "its .json cannot be read"),
        ([("1.jpg", b"x"), ("1.json", b"[1]")], "its .json has no label or cls or class or class_name"),
        ([("1.jpg", b"x"), ("1.json", b'{"label": null}')], "that is a name or a whole number"),
        ([("1.jpg", b"x"), ("1.json", b'{"label": true}')], "that is a name or a whole number"),
        ([("1.jpg", b"x"), ("1.png", b"y"), ("1.cls", b"1")], "has more than one image (jpg, png)"),
        ([("1.jpg", b"x"), ("1.jpg", b"y"), ("1.cls", b"1")], "has more than one .jpg"),
    ],
)
def test_an_incomplete_sample_is_refused_and_its_neighbours_are_not(
    tmp_path: Path, sample: Members, problem: str
) -> None:
    around = [("0.jpg", b"x"), ("0.cls", b"1")], [("2.jpg", b"x"), ("2.cls", b"1")]
    before, bad, after = items(tar(tmp_path / "x.tar", [*around[0], *sample, *around[1]]))
    assert before.problem is after.problem is None
    assert bad.key == "x.tar/1"
    assert bad.data == b""
    assert problem in (bad.problem or "")


def test_a_name_used_again_is_refused(tmp_path: Path) -> None:
    again = [("0.jpg", b"x"), ("0.cls", b"1"), ("1.jpg", b"x"), ("1.cls", b"1")] * 2
    found = items(tar(tmp_path / "x.tar", again))
    assert [item.problem for item in found] == [None, None, *["its name is used more than once in this archive"] * 2]


def test_what_could_write_or_read_elsewhere_is_refused_by_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg"):
            member(archive, name, b"x")
        member(archive, "0.jpg", b"x")
        member(archive, "link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        member(archive, "0.cls", b"1")
        member(archive, "hard.jpg", type=tarfile.LNKTYPE, linkname="0.jpg")
        member(archive, "null.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        member(archive, "pipe.jpg", type=tarfile.FIFOTYPE)
        member(archive, "folder", type=tarfile.DIRTYPE)
        member(archive, "link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    problems = {item.key.split(" (at")[0].removeprefix("x.tar/"): item.problem for item in items(tmp_path / "x.tar")}
    assert problems == {
        "member '../evil.jpg'": "its path leads out of the archive",
        "member '/etc/evil.jpg'": "its path leads out of the archive",
        "member 'a/../../evil.jpg'": "its path leads out of the archive",
        "member 'link.jpg'": "is a link",
        "member 'hard.jpg'": "is a link",
        "member 'null.jpg'": "is no regular file",
        "member 'pipe.jpg'": "is no regular file",
        "0": None,
    }


@given(st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_an_archive_cut_anywhere_is_named(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    data = tar(folder / "whole.tar", WHOLE).read_bytes()
    end = max(at for at in range(0, len(data), 512) if data[at : at + 512] != bytes(512)) + 512
    (folder / "cut.tar").write_bytes(data[: int(share * end)])
    with pytest.raises(DataError, match="truncated") as error:
        items(folder / "cut.tar")
    assert error.value.where == str(folder / "cut.tar")


@pytest.mark.parametrize("samples", range(1, 6))
def test_an_archive_cut_between_samples_is_named(tmp_path: Path, samples: int) -> None:
    whole = tar(tmp_path / "whole.tar", WHOLE)
    with tarfile.open(whole) as archive:
        ends = [info.offset_data + -(-info.size // 512) * 512 for info in archive][1::2]
    data = whole.read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: ends[samples - 1]])
    with pytest.raises(DataError, match="truncated tar: it ends without its end mark"):
        items(tmp_path / "cut.tar")
    (tmp_path / "cut.tar").write_bytes(data[: ends[samples - 1]] + bytes(1024))
    assert len(items(tmp_path / "cut.tar")) == samples


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", WHOLE)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        data[archive.getmembers()[4].offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="tar"):
        items(path)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("train-{000..002}.tar", ["train-000.tar", "train-001.tar", "train-002.tar"]),
        ("train-{1..2}.tar", ["train-1.tar", "train-2.tar"]),
        ("{train,val}-000.tar", ["train-000.tar", "val-000.tar"]),
        ("{train,val}-00[01].tar", ["train-000.tar", "train-001.tar", "val-000.tar"]),
        ("train-*.tar", ["train-000.tar", "train-001.tar", "train-002.tar", "train-1.tar", "train-2.tar"]),
        ("val-00?.tar", ["val-000.tar"]),
        ("val-000.tar", ["val-000.tar"]),
        ("", ["deeper/test-000.tar", "train-000.tar", "train-001.tar", "train-002.tar", "train-1.tar", "train-2.tar",
              "val-000.tar"]),
    ],
)  # fmt: skip
def test_archives_are_named_by_folder_or_pattern(tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in ("000", "001", "002", "1", "2"):
        tar(tmp_path / f"train-{name}.tar", WHOLE[:2])
    tar(tmp_path / "val-000.tar", WHOLE[:2])
    tar(tmp_path / "deeper/test-000.tar", WHOLE[:2])
    for root in (tmp_path, f"file://{tmp_path}")[: 1 if "?" in pattern else 2]:  # a URI's options follow a "?"
        assert [item.key.removesuffix("/000") for item in items(f"{root}/{pattern}")] == names
    splits = [item.split for item in items(f"{tmp_path}/{pattern}", splits="folders")]
    assert splits == [name.split("/")[-1].split("-")[0] for name in names]


def test_an_archive_that_a_pattern_names_must_be_there(tmp_path: Path) -> None:
    tar(tmp_path / "train-000.tar", WHOLE)
    with pytest.raises(DataError, match="there is no such file") as error:
        items(tmp_path / "train-{000..001}.tar")
    assert error.value.where == str(tmp_path / "train-001.tar")


def test_a_name_with_braces_in_it_is_a_name_first(tmp_path: Path) -> None:
    assert len(items(tar(tmp_path / "odd{1..2}.tar", WHOLE))) == 5
