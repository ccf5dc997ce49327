"""Files that run code when they are read carelessly: each payload would leave a canary."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch


class Canary:
    """``payload()`` is an object whose unpickling makes the file; ``command`` what a shell would make it with."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def command(self) -> str:
        return f"touch {self.path}"

    def payload(self) -> Any:
        return _Payload(str(self.path))

    def pickled(self) -> bytes:
        return pickle.dumps(self.payload())

    @property
    def fired(self) -> bool:
        return self.path.exists()


class _Payload:
    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def weights_files(folder: Path, canary: Canary) -> list[Path]:
    """What one is sent as "weights": by every way in which torch and its like have written pickles."""
    folder.mkdir()
    state = {"cls_token": torch.zeros(1, 1, 32), "evil": canary.payload()}
    torch.save(state, folder / "new.pth")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(canary.payload(), folder / "whole.bin")
    (folder / "plain.pth").write_bytes(canary.pickled())
    (folder / "plain.safetensors").write_bytes(canary.pickled())
    torch.save(state, folder / "renamed.safetensors")
    np.save(folder / "array.npy", np.array([canary.payload()], dtype=object), allow_pickle=True)
    (folder / "array.npy").rename(folder / "array.pth")
    with zipfile.ZipFile(folder / "scripted.pt", "w") as archive:  # as TorchScript lays it out
        for name in ("constants.pkl", "data.pkl"):
            archive.writestr(f"scripted/{name}", canary.pickled())
        archive.writestr("scripted/version", "3\n")
        archive.writestr("scripted/code/__torch__.py", f"import os\nos.system({canary.command!r})\n")
    return sorted(folder.iterdir())


def configs(folder: Path, canary: Canary) -> list[Path]:
    """YAML whose tags name Python objects."""
    folder.mkdir()
    tags = {
        "apply": f"!!python/object/apply:os.system ['{canary.command}']",
        "new": f"!!python/object/new:builtins.eval [\"open('{canary.path}', 'w')\"]",
        "module": "!!python/module:antigravity",
        "name": "!!python/name:os.system",
    }
    for name, tag in tags.items():
        (folder / f"{name}.yaml").write_text(f"data: {{path: builtin:digits}}\nname: {tag}\n")
    return sorted(folder.iterdir())


def tar(path: Path, outside: Path, images: list[bytes]) -> None:
    """Good samples, and members that lead out, link, or are devices."""
    with tarfile.open(path, "w") as archive:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, len(data)
            archive.addfile(member, io.BytesIO(data))

        for number, image in enumerate(images):
            add(f"{number:04d}.png", image)
            add(f"{number:04d}.cls", b"%d" % (number % 2))
        add(f"../{outside.name}/up.png", images[0])
        add(f"{outside}/absolute.png", images[0])
        add("link.png", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add("hard.png", kind=tarfile.LNKTYPE, link="../../etc/passwd")
        add("null.png", kind=tarfile.CHRTYPE)
        add("pipe.png", kind=tarfile.FIFOTYPE)


def parquet_with_pickles(path: Path, canary: Canary, images: list[bytes], *, shapes: bool) -> None:
    """Columns that Ray and Arrow would unpickle: as objects, or with ``shapes`` for the shape of a tensor."""
    objects = pa.array([canary.pickled()] * len(images), pa.large_binary())
    tensors = pa.array([[0]] * len(images), pa.list_(pa.int64()))

    def field(name: str, kind: pa.DataType, extension: str, serialized: bytes) -> pa.Field:
        said = {"ARROW:extension:name": extension, "ARROW:extension:metadata": serialized}
        return pa.field(name, kind, metadata=said)

    columns = {
        pa.field("image", pa.binary()): pa.array(images),
        field("label", objects.type, "ray.data.arrow_pickled_object", b""): objects,
        field("old", objects.type, "arrow.py_extension_type", canary.pickled()): objects,
    }
    if shapes:
        columns |= {
            field(name, tensors.type, f"ray.data.{name}", canary.pickled()): tensors
            for name in ("arrow_tensor", "arrow_tensor_v2")
        }
    pq.write_table(pa.table(list(columns.values()), schema=pa.schema(list(columns))), path)


def cifar(root: Path, canary: Canary) -> None:
    """CIFAR-10 as it is published: pickles."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(canary.pickled())


def mlflow_model(folder: Path, canary: Canary) -> Path:
    """An MLflow model that runs its maker's code in each of the ways that MLflow knows."""
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "evil_loader.py").write_text(f"open({str(canary.path)!r}, 'w')\ndef _load_pyfunc(p): ...\n")
    (folder / "python_model.pkl").write_bytes(canary.pickled())
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: evil_loader\n    code: code\n    data: data\n"
        f"    python_model: python_model.pkl\nx: !!python/object/apply:os.system ['{canary.command}']\n"
    )
    data = folder / "data" / "package"
    data.mkdir(parents=True)
    (data / "model.json").write_text(json.dumps({"format": 1, "__reduce__": canary.command}))
    (data / "model.safetensors").write_bytes(canary.pickled())
    return folder


def modules(folder: Path, canary: Canary) -> None:
    """What Python would import instead of the packages, if it looked here first."""
    for name in ("pyarrow", "torch", "yaml", "mlflow", "psutil", "cv2", "json", "uvicorn", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"open({str(canary.path)!r}, 'a').write(__name__ + ' ')\n")
