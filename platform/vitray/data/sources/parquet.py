"""Images inside Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from vitray.data.sources.columns import IMAGE_NAMES, LABEL_NAMES, check_labels, choose, is_bytes
from vitray.data.sources.files import Files, printable, problem, read_all
from vitray.data.sources.source import Chunk, Item, Splits
from vitray.data.sources.splits import split_of_file
from vitray.errors import DataError

_OPENERS = 16
_BATCH = 32  # images decompressed at a time
_BUFFER = 2**20  # bytes of a column asked for at a time


class EmbeddedParquet:
    """Parquet files that hold the encoded images: one file, or all below a folder or URI.

    ``cats.parquet``, ``s3://bucket/dataset``: a column of binary, or of Hugging Face's struct ``{bytes, path}`` (where
    its bytes are null, the file at ``path`` is read), and one of labels, whole numbers or names. Names that Hugging
    Face datasets keep for the numbers are used. With splits="folders" the file names say the split, or their folders::

        dataset/train-00000-of-00002.parquet      or      dataset/train/0000.parquet
        dataset/test-00000-of-00001.parquet               dataset/test/0000.parquet
    """

    rereads: ClassVar[bool] = False  # a row costs its whole column chunk

    def __init__(
        self,
        folder: Files,
        paths: list[str],
        splits: Splits,
        image_column: str | None,
        label_column: str | None,
        *,
        single: bool,
        labelled: bool = True,
    ) -> None:
        """``paths`` of the files below ``folder``; ``single``: the source is one file, not the folder.

        Without ``labelled`` a label is used where there is one and may be missing.
        """
        self.name = folder.show(paths[0]) if single else folder.name
        self._folder, self._paths, self._by_name = folder, paths, splits == "folders"
        schema = footer(folder, paths[0])[0]
        bytes_columns = [field.name for field in schema if is_bytes(field.type)]
        only = image_column or (bytes_columns[0] if len(bytes_columns) == 1 else None)
        where = folder.show(paths[0])
        self._image = choose(schema.names, only, IMAGE_NAMES, "image", where)
        self._label: str | None = None
        if labelled or label_column or _has_labels(schema):
            self._label = choose(schema.names, label_column, LABEL_NAMES, "label", where)
        self._labelled = labelled
        self.class_names = _class_names(schema, self._label)

    def chunks(self) -> list[Chunk]:
        """A row group each. Raises DataError: a file is damaged or unlike the others, or there is no row at all."""
        with ThreadPoolExecutor(_OPENERS) as pool:
            footers = list(pool.map(lambda path: footer(self._folder, path), self._paths))
        chunks: list[Chunk] = []
        for path, (schema, sizes) in zip(self._paths, footers, strict=True):
            self._check(schema, path)
            split = split_of_file(path, self._folder.show(path)) if self._by_name else None
            first = 0
            for group, rows in enumerate(sizes):
                chunks.append(Chunk(len(chunks), (path, group, first, split), rows))
                first += rows
        if not any(chunk.images for chunk in chunks):
            raise DataError("holds no rows", where=self.name, remedy="name a folder or file that does")
        return chunks

    def items(self, chunk: Chunk) -> Iterator[Item]:
        path, group, row, split = chunk.place
        names = self.class_names
        columns = [self._image, *([self._label] if self._label else [])]
        try:
            # Buffered: else all images of a row group would be in memory at once, and some are written as one group.
            with self._folder.open(path) as file, pq.ParquetFile(file, buffer_size=_BUFFER) as parquet:
                for batch in parquet.iter_batches(_BATCH, row_groups=[group], columns=columns):
                    images = self._images(batch.column(self._image), path)
                    labels = batch.column(self._label).to_pylist() if self._label else [None] * len(batch)
                    for (data, why), label in zip(images, labels, strict=True):
                        if not self._labelled and (label is None or (names and not 0 <= label < len(names))):
                            label = ""
                        elif why is None and (label is None or label == ""):
                            why = "has no label"
                        elif why is None and names is not None and not 0 <= label < len(names):
                            why = f"label {label} is none of the {len(names)} classes"
                        key = f"{printable(path)}#{row}"
                        yield Item(key, "" if label is None else label, b"" if why else data, why, split)
                        row += 1
        except (pa.ArrowException, OSError) as error:
            raise _damaged(error, self._folder.show(path)) from None

    def reread(self, place: Any) -> bytes:
        raise AssertionError("a source that does not reread is never asked to")

    def _images(self, column: pa.Array, path: str) -> Iterator[tuple[bytes, str | None]]:
        base, files = path.rpartition("/")[0], [None] * len(column)
        if pt.is_struct(column.type):
            if column.type.get_field_index("path") >= 0:
                files = pc.struct_field(column, "path").to_pylist()
            column = pc.struct_field(column, "bytes")
        for data, file in zip(column.to_pylist(), files, strict=True):
            if data is not None:
                yield data, None
            elif file:
                yield next(read_all(self._folder, [_beside(base, file)]))
            else:
                yield b"", "has no image"

    def _check(self, schema: pa.Schema, path: str) -> None:
        where = self._folder.show(path)
        for column in (self._image, self._label):
            if column:
                choose(schema.names, column, (), "image", where)
        kind = schema.field(self._image).type
        if not is_bytes(kind):
            raise DataError(
                f"column {self._image!r} holds {kind}, no encoded images",
                where=where,
                remedy="name another column with --image-column, or the column of their paths with --path-column",
            )
        if self._label:
            check_labels(schema.field(self._label).type, self._label, where)
        if _class_names(schema, self._label) != self.class_names:
            raise DataError(
                f"names its classes otherwise than {self._paths[0]} does",
                where=where,
                remedy="prepare them one by one, or write them with the same classes",
            )


def has_images(folder: Files, path: str) -> bool:
    """Whether a Parquet file has a column of encoded images. Raises DataError when it cannot be read."""
    return any(is_bytes(field.type) for field in footer(folder, path)[0])


def footer(folder: Files, path: str) -> tuple[pa.Schema, list[int]]:
    """The columns of a file, and the rows of each of its row groups. Raises DataError when it cannot be read."""
    try:
        with folder.open(path) as file, pq.ParquetFile(file) as parquet:
            meta = parquet.metadata
            return parquet.schema_arrow, [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(error, folder.show(path)) from None


def _damaged(error: Exception, where: str) -> DataError:
    if isinstance(error, OSError | DataError):
        what = problem(error)
    elif isinstance(error, pa.ArrowException):
        what = str(error).partition("\n")[0]
    else:  # Ray's types for columns, which would unpickle it if an environment variable allowed that
        what = "a column has a type that only a pickle describes, and reading that could run code"
    return DataError(what, where=where, remedy="fetch or write this Parquet file again")


def _beside(folder: str, file: str) -> str:
    return file if not folder or file.startswith("/") or "://" in file else f"{folder}/{file}"


def _has_labels(schema: pa.Schema) -> bool:
    """Whether labels are found without being asked for: a column called so may hold anything."""
    try:
        label = choose(schema.names, None, LABEL_NAMES, "label", "")
        check_labels(schema.field(label).type, label, "")
    except DataError:
        return False
    return True


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...] | None:
    """The names that Hugging Face datasets keep in a file's metadata, when the labels are numbers."""
    if label is None or not pt.is_integer(schema.field(label).type):
        return None
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None
