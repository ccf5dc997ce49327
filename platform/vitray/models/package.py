"""A model on disk: a folder with ``model.safetensors`` and ``model.json``, all that prediction needs. Never a pickle.

``model.json`` holds ``format``, ``model`` (the resolved config), ``classes``, ``mean``, ``std``,
``dataset_fingerprint``, and ``sha256`` of the weights and of the rest of the file itself, so that a changed byte in
either is noticed instead of predicted with.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from vitray.errors import CheckpointError, ConfigError, DataError
from vitray.model_config import ModelConfig
from vitray.models.vit import VisionTransformer
from vitray.models.weights_file import first_few, mismatches, write_weights

FORMAT = 1
WEIGHTS, INFO = "model.safetensors", "model.json"


@dataclass(frozen=True, kw_only=True)
class PackageInfo:
    """What a model's weights do not say: its shape, its classes, how pixels are normalised, what it was trained on.

    Args:
        model: resolved config.
        classes: names by index of the logits.
        mean, std: of pixels scaled to 0..1, one a channel.
        dataset_fingerprint: of the data it was trained on.

    Raises:
        DataError: the parts contradict each other.
    """

    model: ModelConfig
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset_fingerprint: str

    def __post_init__(self) -> None:
        if self.model.image_size is None:
            raise DataError("model.image_size is not set")
        for name, values, count, key in (
            ("classes", self.classes, self.model.num_classes, "num_classes"),
            ("mean", self.mean, self.model.in_chans, "in_chans"),
            ("std", self.std, self.model.in_chans, "in_chans"),
        ):
            if len(values) != count:
                raise DataError(f"{name} has {len(values)} entries, but model.{key} is {count}")
        if not all(math.isfinite(v) for v in self.mean) or not all(0 < v < math.inf for v in self.std):
            raise DataError(f"mean {self.mean} must be finite and std {self.std} positive")


def save_package(folder: str | os.PathLike[str], state_dict: Mapping[str, Tensor], info: PackageInfo) -> Path:
    """Write a package; returns the folder.

    A new folder appears whole or not at all. In an existing one the weights are replaced first and the description,
    which carries their checksum, last: a reader in between gets an error, never a mixture.

    Raises:
        CheckpointError: the weights are not those of ``info.model``.
    """
    folder = Path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    check_weights(weights, info.model, str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staging:
        new = Path(staging, "package")
        new.mkdir()
        write_package(new, weights, info)
        for path in (new / WEIGHTS, new / INFO, new):
            _fsync(path)
        if folder.is_dir() and any(folder.iterdir()):
            for name in (WEIGHTS, INFO):
                (new / name).replace(folder / name)
            _fsync(folder)
        else:
            new.replace(folder)  # also onto an empty folder
        _fsync(folder.parent)
    return folder


def write_package(folder: Path, weights: Mapping[str, Tensor], info: PackageInfo) -> None:
    """Write a package's files, contiguous tensors that are ``info.model``'s, into a folder that nobody reads yet."""
    write_weights(folder / WEIGHTS, weights)
    (folder / INFO).write_text(package_json(info, _sha256(folder / WEIGHTS)))


def load_package(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[VisionTransformer, PackageInfo]:
    """Read a package: the model, float32, in eval mode, on ``device``, and what belongs to it.

    Raises:
        DataError: there is no package, or a newer vitray wrote it.
        CheckpointError: a file is damaged, or the weights do not fit the description.
    """
    folder = Path(folder)
    info, digest = read_info(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise DataError(f"has {INFO} but no {WEIGHTS}", where=str(folder), remedy="copy the whole folder again")
    if _sha256(path) != digest:
        raise damaged(path, "its bytes are not those that were written")
    try:
        weights = load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise damaged(path, str(error)) from error
    check_weights(weights, info.model, str(path))
    with torch.device("meta"):  # no time spent on initial values that are replaced at once
        model = VisionTransformer(info.model)
    model.load_state_dict(weights, assign=True)
    return model.to(device, torch.float32).eval(), info


def read_info(folder: str | os.PathLike[str]) -> tuple[PackageInfo, str]:
    """What ``model.json`` says, and the sha256 that the weights must have. Errors as :func:`load_package`."""
    path = Path(folder) / INFO
    if not path.is_file():
        what = f"is not a model: no {INFO} in it" if path.parent.is_dir() else "there is no such folder"
        remedy = f"give a folder that holds {WEIGHTS} and {INFO}"
        raise DataError(what, where=str(path.parent), remedy=remedy)
    try:
        content = json.loads(path.read_bytes())
        version = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, f"it is not a model's description ({error!r})") from error
    if version != FORMAT:
        raise DataError(f"has format {version}; this vitray reads {FORMAT}", where=str(path), remedy="upgrade vitray")
    try:
        digests = content.pop("sha256")
        if _digest(content) != digests[INFO]:
            raise damaged(path, "its content is not what was written")
        digest = str(digests[WEIGHTS])
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"a part of it is missing or of the wrong kind ({error!r})") from error
    return info_from(content, path), digest


def info_from(content: Mapping[str, Any], path: Path) -> PackageInfo:
    """The description in plain values, as ``model.json`` and exported files hold it; ``path`` is for errors.

    Raises:
        CheckpointError: a part is missing, or they contradict each other.
    """
    try:
        return PackageInfo(
            model=ModelConfig(**content["model"]),
            classes=tuple(map(str, content["classes"])),
            mean=tuple(map(float, content["mean"])),
            std=tuple(map(float, content["std"])),
            dataset_fingerprint=str(content["dataset_fingerprint"]),
        )
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"describes an impossible model: {error.what}", where=str(path)) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(path, f"a part of it is missing or of the wrong kind ({error!r})") from error


def package_json(info: PackageInfo, weights_sha256: str) -> str:
    """The text of ``model.json`` beside weights whose file has this checksum."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "model": info.model.model_dump(mode="json"),
        "classes": list(info.classes),
        "mean": list(info.mean),
        "std": list(info.std),
        "dataset_fingerprint": info.dataset_fingerprint,
    }
    content["sha256"] = {WEIGHTS: weights_sha256, INFO: _digest(content)}
    return json.dumps(content, indent=2) + "\n"


def check_weights(weights: Mapping[str, Tensor], config: ModelConfig, where: str) -> None:
    """Names and shapes must be those of the config's model.

    Raises:
        CheckpointError: they are not; the first few are named.
    """
    with torch.device("meta"):
        wrong = mismatches(weights, VisionTransformer(config))
    if wrong:
        raise CheckpointError(
            f"the weights are not those of the model described: {first_few(wrong)}",
            where=where,
            remedy="use the config it was trained with",
        )


def damaged(path: Path, why: str) -> CheckpointError:
    """The error that says so."""
    return CheckpointError(f"is damaged: {why}", where=str(path), remedy="copy or download the model again")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
