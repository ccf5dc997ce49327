"""Files of weights: written for all who may read them, read without running what may be in them, and compared."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitray.errors import CheckpointError, DataError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
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
        CheckpointError: the file is damaged, or is no file of weights.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), remedy="give a .safetensors or .pth file of weights")
    if path.suffix not in SUFFIXES:
        what = f"weights are not read from {path.suffix or 'a file without suffix'}"
        raise DataError(what, where=str(path), remedy="give a .safetensors, .pth, .pt or .bin file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # what is wrong is said once, by the error
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: torch's reader trips over foreign bytes wherever they lead it
        refused = _refused(error)
        if refused is None:
            what = f"is damaged, or is no file of weights: {_reason(error)}"
            remedy = "copy or download it again, or save the weights as .safetensors"
            raise CheckpointError(what, where=str(path), remedy=remedy) from error
        raise DataError(
            f"holds {refused}, not plain weights alone, and loading that could run code",
            where=str(path),
            remedy="save the state_dict alone, best as .safetensors, on a machine that trusts the file",
        ) from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError("holds no dictionary of tensors", where=str(path), remedy="save the model's state_dict")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _refused(error: Exception) -> str | None:
    """What ``weights_only`` would not load, if that is why it failed. Bytes that are no pickle name no such thing."""
    said = _plain(error)
    if "with TorchScript archives" in said:
        return "a TorchScript program"
    if "legacy .tar format" in said:
        return "an archive of torch's first format"
    if not isinstance(error, pickle.UnpicklingError):
        return None
    named = re.search(r"nsupported (?:global: )?GLOBAL (.+?) (?:was not an allowed|whose module)", said)
    if named is not None:
        return named[1] if all(part.isidentifier() for part in named[1].split(".")) else None
    return "an object of Python" if "add_safe_globals" in said or "unrecognized function" in said else None


def _reason(error: Exception) -> str:
    """One line, never empty, without torch's advice on how to load the file nevertheless."""
    if isinstance(error, EOFError):
        return "it ends too early"
    said = _plain(error).rpartition("WeightsUnpickler error:")[2].removeprefix("Weights only load failed.").strip()
    # The sentences after the first speak to developers of torch; bare values, such as a KeyError's, say nothing alone.
    first = re.split(r"\n|(?<=\w)\.\s", said)[0]
    if first and isinstance(error, (RuntimeError, OSError, pickle.UnpicklingError, safetensors.SafetensorError)):
        return first[:200]
    return f"its bytes cannot be followed ({': '.join(filter(None, (type(error).__name__, first[:200])))})"


def _plain(error: Exception) -> str:
    """The message without what a terminal would obey: torch prints bold, and a name in a file can hold any bytes."""
    bare = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in bare)


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
