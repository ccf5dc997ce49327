"""What weights say of themselves, beyond the names and shapes of their tensors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
from safetensors import safe_open

from vitray.errors import DataError
from vitray.models.package import PackageInfo, damaged, info_from, read_info


def weights_info(path: str | os.PathLike[str]) -> PackageInfo | None:
    """The description of a package, or that in the header of a ``.safetensors`` which ``vitray models export`` wrote.

    None: a file of other origin, which says nothing. The weights themselves are not read.

    Raises:
        DataError: the folder holds no package.
        CheckpointError: the description is damaged, or contradicts itself.
    """
    path = Path(path)
    if path.is_dir():
        return read_info(path)[0]
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path), remedy="check the path") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error
    if "vitray" not in facts:
        return None
    try:  # values of a header are strings, see export_program.as_text
        content = {name: json.loads(facts[name]) for name in ("model", "classes", "mean", "std")}
    except (KeyError, ValueError) as error:
        raise damaged(path, f"its header is not what vitray writes ({error!r})") from error
    return info_from(content | {"dataset_fingerprint": facts.get("dataset_fingerprint", "")}, path)
