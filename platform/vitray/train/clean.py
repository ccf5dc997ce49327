"""Between two experiments of a rank: what one may have changed in its process is put back, what it held is freed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import _C  # some settings have no public name to be read by

from vitray.train.compiling import forget_compiled

_PRECISIONS = [
    ("generic", "all"),
    *((backend, part) for backend in ("cuda", "mkldnn") for part in ("all", "matmul", "conv", "rnn")),
]
_KINDS = ("cpu", "cuda")
_HOOKS = [
    hooks
    for name in ("torch.nn.modules.module", "torch.optim.optimizer")
    for what, hooks in vars(sys.modules[name]).items()
    if what.startswith("_global_") and isinstance(hooks, dict)
]
"""Hooks on every module and every optimizer of the process."""


@dataclass(frozen=True)
class _Setting:
    get: Callable[[], Any]
    put: Callable[[Any], object]


def _pair(holder: Any, name: str) -> _Setting:
    return _Setting(partial(getattr, holder, name), partial(setattr, holder, name))


def _put_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _matmul_precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set for one backend alone: this name has no answer then
        return None


def _put_matmul_precision(value: str | None) -> None:
    if value is not None:
        torch.set_float32_matmul_precision(value)


def _precisions() -> list[str]:
    return [_C._get_fp32_precision_getter(*key) for key in _PRECISIONS]


def _put_precisions(values: list[str]) -> None:
    for key, value in zip(_PRECISIONS, values, strict=True):
        _C._set_fp32_precision_setter(*key, value)


def _put_device(value: torch.device) -> None:
    # None, not the device: a rank starts without a default, and setting one slows every call.
    torch.set_default_device(None)
    if torch.get_default_device() != value:
        torch.set_default_device(value)


_backends = torch.backends
# In this order: the precision of matrix products sets some of the finer ones that follow, which then count as changed.
_SETTINGS: dict[str, _Setting] = {
    "threads": _Setting(torch.get_num_threads, torch.set_num_threads),
    "default dtype": _Setting(torch.get_default_dtype, torch.set_default_dtype),
    "default device": _Setting(torch.get_default_device, _put_device),
    "deterministic algorithms": _Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _put_deterministic,
    ),
    "fill uninitialized memory": _pair(torch.utils.deterministic, "fill_uninitialized_memory"),
    "cudnn.enabled": _pair(_backends.cudnn, "enabled"),
    "cudnn.benchmark": _pair(_backends.cudnn, "benchmark"),
    "cudnn.deterministic": _pair(_backends.cudnn, "deterministic"),
    "mkldnn.enabled": _pair(_backends.mkldnn, "enabled"),
    "mkldnn.deterministic": _pair(_backends.mkldnn, "deterministic"),
    "matmul precision": _Setting(_matmul_precision, _put_matmul_precision),
    "float32 precisions": _Setting(_precisions, _put_precisions),
    "matmul fp16 reduction": _pair(_backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    "matmul bf16 reduction": _pair(_backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    "matmul fp16 accumulation": _pair(_backends.cuda.matmul, "allow_fp16_accumulation"),
    "flash attention": _Setting(_backends.cuda.flash_sdp_enabled, _backends.cuda.enable_flash_sdp),
    "memory-efficient attention": _Setting(
        _backends.cuda.mem_efficient_sdp_enabled, _backends.cuda.enable_mem_efficient_sdp
    ),
    "math attention": _Setting(_backends.cuda.math_sdp_enabled, _backends.cuda.enable_math_sdp),
    "cudnn attention": _Setting(_backends.cuda.cudnn_sdp_enabled, _backends.cuda.enable_cudnn_sdp),
    "attention reduction": _Setting(
        _backends.cuda.fp16_bf16_reduction_math_sdp_allowed, _backends.cuda.allow_fp16_bf16_reduction_math_sdp
    ),
    "attention order": _Setting(_C._get_sdp_priority_order, _C._set_sdp_priority_order),
    **{
        f"autocast {kind}": _Setting(
            partial(torch.is_autocast_enabled, kind), partial(torch.set_autocast_enabled, kind)
        )
        for kind in _KINDS
    },
    **{
        f"autocast dtype {kind}": _Setting(
            partial(torch.get_autocast_dtype, kind), partial(torch.set_autocast_dtype, kind)
        )
        for kind in _KINDS
    },
    "autocast cache": _Setting(torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    "gradients": _Setting(torch.is_grad_enabled, torch._C._set_grad_enabled),
    "anomaly detection": _Setting(
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
    ),
    "default warnings of torch": _Setting(torch.is_warn_always_enabled, torch.set_warn_always),
}


class Settings:
    """What torch's settings in this process are, to be put back: its global ones, and those of this thread."""

    def __init__(self) -> None:
        self.values = {name: setting.get() for name, setting in _SETTINGS.items()}
        self._hooks = [dict(hooks) for hooks in _HOOKS]

    def put_back(self) -> list[str]:
        """Make them again what they were; returns the names of those that had changed."""
        now = Settings().values
        changed = [name for name, value in self.values.items() if now[name] != value]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are on their way out, and say so when they are set
            for name in changed:
                _SETTINGS[name].put(self.values[name])
        torch.set_flush_denormal(False)  # torch's own default; it cannot be read
        torch.clear_autocast_cache()
        for hooks, before in zip(_HOOKS, self._hooks, strict=True):
            hooks.clear()
            hooks.update(before)
        return changed


def let_go(device: torch.device) -> None:
    """Free what the last experiment held: compiled code, reference cycles, memory that allocators keep for reuse."""
    forget_compiled()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()
