"""From the text a user gives to the source it means."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import NoReturn

from vitray.data.sources.braces import is_pattern, matches
from vitray.data.sources.digits import Digits
from vitray.data.sources.files import Files
from vitray.data.sources.folder import ClassFolder
from vitray.data.sources.source import Source, Splits
from vitray.data.sources.synthetic import Synthetic
from vitray.errors import DataError, nearest
from vitray.masking import public

FORMS = (
    "builtin:digits",
    "builtin:synthetic?classes=10&count=1000&size=64",
    "torchvision:CIFAR10?root=FOLDER",
    "a folder with one sub-folder of images a class",
    "a .csv, .tsv or .parquet listing with a path and a label a row",
    "a .parquet file, or a folder of them, with the images inside",
    "a WebDataset: a .tar file, a folder of them, or a pattern such as train-{000..009}.tar",
)
_REMEDY = "a source is one of these, on disk or behind a URI such as s3://:\n     " + "\n     ".join(FORMS)
_TABLES = (".csv", ".tsv")
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp"})


def open_source(
    spec: str,
    *,
    splits: Splits = "fractions",
    path_column: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    labelled: bool = True,
) -> Source:
    """The source that ``spec`` names, a local path or any pyarrow.fs URI; see :data:`FORMS`.

    Args:
        splits: "folders" takes train, val and test from the source: from sub-folders, the ``split`` column of a
            listing, the file names of Parquet and tar files, or the parts of a torchvision dataset.
        path_column: of a listing; found by its usual names when None.
        label_column: of a listing or Parquet, likewise.
        image_column: of Parquet with images inside, likewise.
        labelled: False takes images without a label too, from any table or tar file.

    Raises:
        DataError: nothing that can be a source; lists the forms one can take. Options that this source has not.
    """
    columns = {"path": path_column, "label": label_column, "image": image_column}
    if spec.startswith(("builtin:", "torchvision:")):
        _refuse(columns, spec)
        return _named(spec, splits)
    if "\0" in spec or not spec.strip():
        raise DataError("is no path", where=repr(spec), remedy=_REMEDY)
    parent, name = _parent(spec)
    if is_pattern(name) and ("://" in spec or Files(spec).kind() is None):
        _refuse(columns, spec)
        folder = Files(parent)
        if folder.kind() != "folder":
            _unknown("is in no folder that is there", spec)
        return _tars(folder, matches(folder, name), splits, folder.show(name), labelled)
    files = Files(spec)
    kind = files.kind()
    if kind is None:
        _unknown("there is no such source", spec)
    if kind == "file":
        return _file(Files(parent), name, splits, columns, labelled)
    return _folder(files, splits, columns, labelled)


def _named(spec: str, splits: Splits) -> Source:
    name = spec.partition("?")[0]
    if name == "builtin:synthetic" or spec == Digits.spec:
        if splits == "folders":
            raise DataError("has no splits of its own", where=spec, remedy="leave out --splits folders")
        return Digits() if spec == Digits.spec else Synthetic.parse(spec)
    if name.startswith("torchvision:"):
        from vitray.data.sources.vision import TorchVision

        return TorchVision(spec, splits)
    remedy = "it takes no options" if name == Digits.spec else nearest(name, (Digits.spec, "builtin:synthetic"))
    raise DataError("there is no such built-in source", where=spec, remedy=remedy)


def _file(folder: Files, name: str, splits: Splits, columns: dict[str, str | None], labelled: bool) -> Source:
    lower = name.lower()
    if lower.endswith(".tar"):
        _refuse(columns, folder.show(name))
        return _tars(folder, [name], splits, folder.show(name), labelled)
    if lower.endswith(_TABLES):
        _refuse(columns, folder.show(name), "path", "label")
    elif lower.endswith(".parquet"):
        if columns["path"] is None and _holds_images(folder, name, columns["image"]):
            return _parquet(folder, [name], splits, columns, single=True, labelled=labelled)
        _refuse(columns, folder.show(name), "path", "label")
    else:
        _unknown("is a file of no kind that can be a source", folder.show(name))
    from vitray.data.sources.listing import Listing

    return Listing(folder, name, splits, columns["path"], columns["label"], labelled=labelled)


def _folder(files: Files, splits: Splits, columns: dict[str, str | None], labelled: bool) -> Source:
    kind = kind_of_files(files)
    if kind == ".tar":
        _refuse(columns, files.name)
        paths = [path for path in files.below() if path.lower().endswith(".tar")]
        return _tars(files, paths, splits, files.name, labelled)
    if kind == ".parquet":
        if "manifest.json" in files.entries()[1]:
            raise DataError("is a prepared dataset already", where=files.name, remedy="train on it as it is")
        paths = [path for path in files.below() if path.lower().endswith(".parquet")]
        return _parquet(files, paths, splits, columns, single=False, labelled=labelled)
    _refuse(columns, files.name)
    return ClassFolder(files, splits)


def kind_of_files(files: Files) -> str:
    """What a folder holds, by its first files on the way down: ".tar", ".parquet" or "" (images in class folders)."""
    folders, plain = files.entries()
    path, top, depth = "", _container(plain), 0
    while folders and depth < 32:  # links can go in circles
        path, depth = f"{path}/{folders[0]}".lstrip("/"), depth + 1
        folders, plain = files.entries(path)
    has_images = any(PurePosixPath(name).suffix.lower() in IMAGES for name in plain)
    return _container(plain) or ("" if has_images else top)


def _container(names: list[str]) -> str:
    """The kind of the tar or Parquet files among ``names``, unless there are more images than those beside them."""
    count = Counter(PurePosixPath(name).suffix.lower() for name in names)
    most = max((".tar", ".parquet"), key=lambda suffix: count[suffix])
    return most if count[most] and count[most] >= sum(count[suffix] for suffix in IMAGES) else ""


def _parquet(
    folder: Files, paths: list[str], splits: Splits, columns: dict[str, str | None], *, single: bool, labelled: bool
) -> Source:
    from vitray.data.sources.parquet import EmbeddedParquet

    _refuse(columns, folder.name, "image", "label")
    return EmbeddedParquet(folder, paths, splits, columns["image"], columns["label"], single=single, labelled=labelled)


def _tars(folder: Files, paths: list[str], splits: Splits, name: str, labelled: bool) -> Source:
    from vitray.data.sources.tars import WebDataset

    return WebDataset(folder, paths, splits, name, labelled=labelled)


def _holds_images(folder: Files, name: str, image_column: str | None) -> bool:
    from vitray.data.sources.parquet import has_images

    return image_column is not None or has_images(folder, name)


def _parent(spec: str) -> tuple[str, str]:
    """The folder and the last part of a path or URI. Options of a URI stay with its folder."""
    plain, mark, options = spec.partition("?") if "://" in spec else (spec, "", "")
    head, slash, name = plain.rstrip("/").rpartition("/")
    if not slash:
        head = "."
    elif not head:
        head = "/"
    return head + mark + options, name


def _refuse(columns: dict[str, str | None], where: str, *used: str) -> None:
    """Raises DataError for a column that was named although this kind of source has no use for it."""
    for what, column in columns.items():
        if column is not None and what not in used:
            raise DataError(
                f"has no use for --{what}-column", where=public(where), remedy="leave it out, or name another source"
            )


def _unknown(what: str, where: str) -> NoReturn:
    raise DataError(what, where=public(where), remedy=_REMEDY)
