"""Files of weights: written for all who may read them, read without running what may be in them, and compared."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitray.errors import CheckpointError, DataError

CONTAINERS = ("state_dict", "model", "model_state")  # where training scripts of the field put the weights


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write contiguous tensors as ``.safetensors``, readable by whom the umask lets read.

    safetensors' ``save_file`` alone makes files for their owner only, useless to others on shared storage. Its
    ``save`` would give bytes to write ourselves, but they take twice the memory of the weights.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(weights), path, metadata=dict(metadata) if metadata is not None else None)
    path.chmod(mode)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from ``.safetensors``, or from a ``.pth``, ``.pt`` or ``.bin`` opened with ``weights_only``.

    Raises:
        DataError: no such file, an unknown kind, or one that holds code instead of weights.
        CheckpointError: the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), remedy="give a .safetensors or .pth file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pth", ".pt", ".bin"):
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            remedy = "give a .safetensors, .pth, .pt or .bin file"
            raise DataError(
                f"weights are not read from {path.suffix or 'a file without suffix'}", where=str(path), remedy=remedy
            )
    except pickle.UnpicklingError as error:
        # Raised for a pickle that would call anything but tensor constructors, and for bytes that are no pickle.
        raise DataError(
            f"does not hold plain weights, and loading anything else could run code: {str(error).splitlines()[0]}",
            where=str(path),
            remedy="save the state_dict alone, best as .safetensors, on a machine that trusts the file",
        ) from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        what = f"is damaged: {str(error).splitlines()[0]}"
        raise CheckpointError(what, where=str(path), remedy="copy or download it again") from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError("holds no dictionary of tensors", where=str(path), remedy="save the model's state_dict")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def mismatches(weights: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """What does not fit, in the model's order: missing, unknown, or of another shape."""
    own = model.state_dict()
    wrong = []
    for name, tensor in own.items():
        if name not in weights:
            wrong.append(f"{name} is missing")
        elif weights[name].shape != tensor.shape:
            wrong.append(f"{name} is {tuple(weights[name].shape)}, the model's is {tuple(tensor.shape)}")
    return wrong + [f"{name} is unknown" for name in weights if name not in own]


def first_few(wrong: list[str]) -> str:
    """Three of them in a sentence, and how many more there are."""
    return "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
