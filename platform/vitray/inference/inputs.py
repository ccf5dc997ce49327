"""What a user wants scored: from the words of the command line to chunks of images, of any number of sources."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from vitray.data.builtin import dataset_folder
from vitray.data.manifest import MANIFEST
from vitray.data.shards import ShardStore, locate
from vitray.data.sources.braces import is_pattern, matches
from vitray.data.sources.files import Files, join
from vitray.data.sources.loose import LooseFiles
from vitray.data.sources.open import IMAGES, kind_of_files, open_source
from vitray.data.sources.prepared import DatasetSplit
from vitray.data.sources.source import Chunk, Item, Source
from vitray.data.uri import is_uri
from vitray.errors import DataError
from vitray.masking import public

_COLUMNS = {  # the options that files of many images have a use for
    ".tar": (),
    ".parquet": ("image_column", "path_column"),
    ".csv": ("path_column",),
    ".tsv": ("path_column",),
}
_TABLES = tuple(_COLUMNS)
_SPLIT = "test"
_ASKED = 1000  # files of a store at a time


@dataclass(frozen=True)
class Part:
    """One source among the inputs. ``shown``: what its keys begin with; ``stamp``: changes when its files do.

    ``place``: the folder or file of this machine that it is read from; None for what is elsewhere or nowhere.
    """

    source: Source
    shown: str
    stamp: str
    notes: tuple[str, ...] = ()
    place: Path | None = None


class Inputs:
    """Several sources laid end to end, itself a :class:`~vitray.data.sources.Source` whose labels are names.

    Attributes:
        stamp: of all files' names, sizes and times of change (of a dataset: its fingerprint). Equal stamps mean the
            same images in the same order.
        notes: what the user should know of what was found.
        places: folders and files of this machine that are read.
    """

    rereads: ClassVar[bool] = False
    class_names: ClassVar[None] = None

    def __init__(self, parts: Sequence[Part]) -> None:
        self._sources = [(part.source, part.shown) for part in parts]
        self.name = ", ".join(part.source.name for part in parts[:3]) + (", ..." if len(parts) > 3 else "")
        self.stamp = hashlib.sha256("\n".join(part.stamp for part in parts).encode()).hexdigest()
        self.notes = tuple(note for part in parts for note in part.notes)
        self.places = tuple(dict.fromkeys(part.place for part in parts if part.place is not None))

    def chunks(self) -> list[Chunk]:
        found = ((at, chunk) for at, (source, _) in enumerate(self._sources) for chunk in source.chunks())
        return [Chunk(number, (at, chunk), chunk.images) for number, (at, chunk) in enumerate(found)]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        at, inner = chunk.place
        source, shown = self._sources[at]
        names = source.class_names
        for item in source.items(inner):
            label = names[item.label] if names and isinstance(item.label, int) else str(item.label)
            yield Item(join(shown, item.key) if shown else item.key, label, item.data, item.problem)

    def reread(self, place: Any) -> bytes:
        raise AssertionError("a source that does not reread is never asked to")


def open_inputs(
    specs: Sequence[str],
    *,
    classes: Collection[str] = (),
    split: str | None = None,
    image_column: str | None = None,
    path_column: str | None = None,
    missing_ok: bool = False,
) -> Inputs:
    """The images that ``specs`` mean, in the order given; those of a folder or a pattern sorted by name.

    Args:
        specs: image files; folders of them, at any depth; patterns (``photos/*/*.jpg``, ``**`` for any depth); dataset
            folders and ``builtin:digits``; whatever else :func:`vitray.data.sources.open_source` takes: Parquet with
            images inside, tar files, listings. Local, or behind a URI such as s3://.
        classes: a folder of such a name is the true class of the files below it.
        split: of dataset folders; test when None.
        image_column: of Parquet files.
        path_column: of listings, which Parquet files can be too.
        missing_ok: an image file that is not there is an image with a problem rather than an error.

    Raises:
        DataError: nothing there, nothing that holds images, an option that none of them has a use for.
    """
    given = {"split": split, "image_column": image_column, "path_column": path_column}
    options = {name: value for name, value in given.items() if value is not None}
    opener = _Opener(frozenset(classes), options, missing_ok)
    places = [place for spec in specs for place in _expanded(spec)]
    parts: list[Part] = []
    for single, group in itertools.groupby(((place, opener.open(place)) for place in places), lambda p: p[1] is None):
        found = list(group)
        parts += [_loose([place for place, _ in found])] if single else [part for _, part in found if part]
    for option in sorted(options.keys() - opener.used):
        what = f"none of these has a use for --{option.replace('_', '-')}"
        raise DataError(what, where=public(specs[0]), remedy="leave it out, or name a source that has one")
    return Inputs(parts)


def _expanded(spec: str) -> list[str]:
    """The paths that a local pattern stands for; anything else as it is, patterns of tar files too."""
    if is_uri(spec) or not is_pattern(spec) or spec.lower().endswith(".tar") or Path(spec).exists():
        return [spec]
    found = glob.glob(spec, recursive=True)  # noqa: PTH207  # it keeps what a relative pattern is relative to
    if "**" in spec:  # which means the folders on the way, too
        found = [path for path in found if not Path(path).is_dir()]
    if not found:
        raise DataError("there is no such file", where=spec, remedy="check the pattern")
    return sorted(found)


@dataclass
class _Opener:
    classes: frozenset[str]
    options: dict[str, str]
    missing_ok: bool
    used: set[str] = field(default_factory=set)

    def open(self, spec: str) -> Part | None:
        """The source that one path means; None for a single image file of this machine."""
        if spec == "builtin:digits":
            spec = dataset_folder(spec)
        if spec.startswith(("builtin:", "torchvision:")):
            return Part(open_source(spec), "", spec)
        if "\0" in spec or not spec.strip():
            raise DataError("is no path", where=repr(spec), remedy="name image files, or a folder of them")
        plain = spec.partition("?")[0] if is_uri(spec) else spec  # after a URI's question mark come its options
        name = plain.lower()
        if is_uri(spec) and is_pattern(plain) and not name.endswith(".tar"):
            return self._there(spec, matches(_files(_parent(spec)), PurePosixPath(plain).name))
        files = _files(spec)
        kind = files.kind()
        if kind == "folder":
            return self._folder(spec, files)
        if kind == "file" and name.endswith(_TABLES):
            source = self._source(spec, *_COLUMNS[PurePosixPath(name).suffix])
            shown = "" if name.endswith((".csv", ".tsv")) else public(_parent(spec))
            return Part(source, shown, _stamp(files, [""]), place=_place(files))
        if kind is None and is_pattern(spec) and name.endswith(".tar"):
            source, folder = self._source(spec), _files(_parent(spec))
            stamp = _stamp(folder, [chunk.place[0] for chunk in source.chunks()])
            return Part(source, public(_parent(spec)), stamp, place=_place(folder))
        if kind == "file" and is_uri(spec):
            return self._there(spec, [PurePosixPath(plain).name])
        if kind is None and (is_uri(spec) or not self.missing_ok):
            remedy = "name image files, folders or patterns of them, a dataset folder, Parquet or tar files"
            raise DataError("there is no such file or folder", where=public(spec), remedy=remedy)
        return None

    def _there(self, spec: str, names: list[str]) -> Part:
        """Image files of one folder behind a URI."""
        folder = _files(_parent(spec))
        return Part(LooseFiles(folder, names, public(_parent(spec)), self.classes), "", _stamp(folder, names))

    def _folder(self, spec: str, files: Files) -> Part:
        if MANIFEST in files.entries()[1]:
            self.used.add("split")
            store, split = ShardStore.open(spec), self.options.get("split", _SPLIT)
            return Part(DatasetSplit(store, split), "", f"{store.fingerprint} {split}", place=_place(files))
        kind, paths = kind_of_files(files), files.below()
        if kind in (".tar", ".parquet"):
            source = self._source(spec, *(["image_column"] if kind == ".parquet" else []))
            return Part(source, public(spec), _stamp(files, paths), place=_place(files))
        images = [path for path in paths if PurePosixPath(path).suffix.lower() in IMAGES]
        if not images:
            what = f"holds no image files ({', '.join(sorted(IMAGES))})"
            raise DataError(what, where=public(spec), remedy="name a folder that does, or the files themselves")
        left_out = len(paths) - len(images)
        notes = (f"{public(spec)}: {left_out} files that are no images by their names are left out",)
        loose = LooseFiles(files, images, public(spec), self.classes)
        return Part(loose, "", _stamp(files, images), notes if left_out else (), _place(files))

    def _source(self, spec: str, *columns: str) -> Source:
        """``columns``: the options that this kind of source has a use for."""
        given = {name: self.options[name] for name in columns if name in self.options}
        self.used |= given.keys()
        return open_source(
            _absolute(spec),
            labelled=False,
            image_column=given.get("image_column"),
            path_column=given.get("path_column"),
        )


def _loose(paths: list[str]) -> Part:
    """Files that were named one by one; relative paths count from here, also where a task runs elsewhere."""
    stamps = []
    for path in paths:
        files = _files(path)
        stamps.append(f"{path} {_stamp(files, ['']) if files.kind() else 'missing'}")
    first = _files(_parent(paths[0]) or ".")
    return Part(LooseFiles(_files("."), paths), "", "\n".join(stamps), place=_place(first))


def _files(spec: str) -> Files:
    return Files(_absolute(spec))


def _absolute(spec: str) -> str:
    """A path that means the same in every process, at any time; URIs as they are."""
    return spec if is_uri(spec) else os.path.abspath(spec)  # noqa: PTH100  # it takes ".." and "/" at the end away


def _place(files: Files) -> Path | None:
    return Path(files.root) if files.local else None


def _parent(spec: str) -> str:
    plain, mark, options = spec.partition("?")
    return f"{plain.rstrip('/').rpartition('/')[0]}{mark}{options}" if "/" in plain else ""


def _stamp(files: Files, paths: Sequence[str]) -> str:
    """Changes when one of the files is another, longer, shorter or newer one."""
    digest = hashlib.sha256(files.name.encode("utf-8", "surrogateescape"))
    for path, size, time in _looked_at(files, paths):
        digest.update(f"{path}\0{size}\0{time}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _looked_at(files: Files, paths: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Path, bytes and time of change (nanoseconds) of each file; what is gone by now has -1."""
    if files.local:
        for path in paths:
            try:
                info = os.stat(Path(files.root, path))  # noqa: PTH116  # Path.stat takes twice as long
                yield path, info.st_size, info.st_mtime_ns
            except OSError:
                yield path, -1, -1
        return
    filesystem, base = locate(files.root)
    for start in range(0, len(paths), _ASKED):
        some = paths[start : start + _ASKED]
        for path, info in zip(
            some, filesystem.get_file_info([f"{base}/{p}" if p else base for p in some]), strict=True
        ):
            yield path, info.size if info.size is not None else -1, info.mtime_ns if info.mtime_ns is not None else -1
