"""WebDataset: images and labels side by side in tar files."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar, Self

from vitray.data.sources.files import Files, printable, problem
from vitray.data.sources.source import Chunk, Item, Splits
from vitray.data.sources.splits import split_of_file
from vitray.errors import DataError

IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
LABELS = ("cls", "json")  # in this order, when a sample has both
JSON_KEYS = ("label", "cls", "class", "class_name")
_BUFFER = 2**20  # bytes of a tar asked for at a time
_LABEL_BYTES = 2**24
_IMAGE_BYTES = 2**30


class _Info(tarfile.TarInfo):
    """Remembers that the end mark was met. Without it an archive cut between two members looks like a whole one."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.met_end = True  # type: ignore[attr-defined]
            raise


class WebDataset:
    """Tar files whose members belong together by name: ``shards``, ``train-{000..009}.tar``, ``s3://bucket/train-*.tar``::

        0001.jpg   0001.cls     the label, a whole number or a name
        0002.png   0002.json    {"label": "cat"}; "cls", "class" and "class_name" will do as well

    A member belongs to the sample that its path names up to the first dot of its last part; a sample's members follow
    each other. Other members are passed over. Links, devices and members whose path leads out of the archive are
    refused. With splits="folders" the names of the tar files say the split, or their folders (``train-000.tar``).
    """

    rereads: ClassVar[bool] = True  # an uncompressed tar holds every image at a known place
    class_names: ClassVar[None] = None

    def __init__(self, folder: Files, paths: list[str], splits: Splits, name: str, *, labelled: bool = True) -> None:
        """``paths`` of the tar files below ``folder``. Without ``labelled`` a sample may have no label."""
        self.name, self._folder, self._paths, self._by_name = name, folder, paths, splits == "folders"
        self._labelled = labelled

    def chunks(self) -> list[Chunk]:
        """A tar file each. Raises DataError: a file whose split is asked for and unknown."""
        show = self._folder.show
        splits = [split_of_file(path, show(path)) if self._by_name else None for path in self._paths]
        return [Chunk(number, place) for number, place in enumerate(zip(self._paths, splits, strict=True))]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        path, split = chunk.place
        try:
            with self._folder.open(path) as raw:
                yield from _Reader(path, split, labelled=self._labelled).items(raw)
        except (tarfile.TarError, OSError, DataError) as error:
            what = problem(error) if isinstance(error, OSError | DataError) else f"damaged or truncated tar: {error}"
            raise DataError(what, where=self._folder.show(path), remedy="fetch or write this archive again") from None

    def reread(self, place: Any) -> bytes:
        path, at, size = place
        with self._folder.open(path) as file:
            file.seek(at)
            return bytes(file.read(size))


class _Reader:
    """One archive, from its first byte to its last; one sample in memory at a time."""

    def __init__(self, path: str, split: str | None, *, labelled: bool) -> None:
        self._path, self._split, self._labelled = path, split, labelled
        self._seen: set[str] = set()
        self._key, self._parts, self._problem = "", dict[str, tuple[bytes, int]](), ""

    def items(self, raw: Any) -> Iterator[Item]:
        with tarfile.open(fileobj=io.BufferedReader(raw, _BUFFER), mode="r:", tarinfo=_Info) as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else all of a large archive's would be kept
                if member.isdir():
                    continue
                if why := _unsafe(member):
                    yield self._refused(self._unique(f"member {printable(member.name)!r}", member.offset), why)
                    continue
                folder, _, file = member.name.removeprefix("./").rpartition("/")
                stem, _, kind = file.partition(".")
                kind = kind.lower()
                if not stem or kind not in IMAGES | set(LABELS):
                    continue
                key = printable(f"{folder}/{stem}" if folder else stem)
                if key != self._key:
                    yield from self._sample()
                    self._key = key
                self._take(archive, member, kind)
            yield from self._sample()
            if not getattr(archive, "met_end", False):
                raise DataError("truncated tar: it ends without its end mark")

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo, kind: str) -> None:
        most = _IMAGE_BYTES if kind in IMAGES else _LABEL_BYTES
        if member.size > most:
            self._problem = f"its .{kind} takes {member.size:,} bytes, more than {most:,}"
        elif kind in self._parts:
            self._problem = f"has more than one .{kind}"
        else:
            file = archive.extractfile(member)
            assert file is not None, "a regular file"
            self._parts[kind] = file.read(), member.offset_data

    def _sample(self) -> Iterator[Item]:
        """The sample whose members have all been read, if there is one."""
        key, parts, why = self._key, self._parts, self._problem
        self._key, self._parts, self._problem = "", {}, ""
        if not parts and not why:
            return
        images = sorted(IMAGES & parts.keys())
        label, unreadable = _label(parts)
        if key in self._seen:
            why = "its name is used more than once in this archive"
        key = self._unique(key, min((at for _, at in parts.values()), default=0))
        if not why and len(images) != 1:
            why = f"has more than one image ({', '.join(images)})" if images else "has no image"
        if why or (unreadable and self._labelled):
            yield self._refused(key, why or unreadable, label)
            return
        data, at = parts[images[0]]
        yield Item(f"{printable(self._path)}/{key}", label, data, None, self._split, (self._path, at, len(data)))

    def _unique(self, key: str, at: int) -> str:
        key = f"{key} (at byte {at})" if key in self._seen else key
        self._seen.add(key)
        return key

    def _refused(self, key: str, why: str, label: str | int = "") -> Item:
        return Item(f"{printable(self._path)}/{key}", label, b"", why, self._split)


def _unsafe(member: tarfile.TarInfo) -> str | None:
    """Why a member must not be used, from its kind and name alone."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "its path leads out of the archive"
    if member.issym() or member.islnk():
        return "is a link"
    if not member.isreg() or member.issparse():  # a sparse file of some bytes may stand for any number of them
        return "is no regular file"
    return None


def _label(parts: dict[str, tuple[bytes, int]]) -> tuple[str | int, str]:
    """The label of a sample, and why there is none (empty when there is)."""
    kind = next((kind for kind in LABELS if kind in parts), None)
    if kind is None:
        return "", "has no label (.cls or .json)"
    text = parts[kind][0]
    return _in_json(text) if kind == "json" else _in_text(text)


def _in_text(data: bytes) -> tuple[str | int, str]:
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        return "", "its .cls is no UTF-8 text"
    if not text:
        return "", "its .cls is empty"
    return (int(text) if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) else text), ""


def _in_json(data: bytes) -> tuple[str | int, str]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return "", "its .json cannot be read"
    known = [value[name] for name in JSON_KEYS if name in value] if isinstance(value, dict) else []
    for label in known[:1]:
        if (isinstance(label, str) and label) or (type(label) is int and abs(label) < 2**63):
            return label, ""
    return "", f"its .json has no {' or '.join(JSON_KEYS)} that is a name or a whole number"
