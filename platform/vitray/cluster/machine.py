"""What this machine has for a local Ray; known in milliseconds, without importing Ray or torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_ASK_GPUS = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Machine:
    """CPUs, GPUs, bytes of memory, and bytes of memory of the smallest GPU (None: not known, or no GPU)."""

    cpus: int
    gpus: int
    node_memory: int | None = None
    gpu_memory: int | None = None

    @classmethod
    def here(cls) -> Machine:
        cpus, gpus = max(1, min(len(os.sched_getaffinity(0)), _cgroup_cpus())), _gpus()
        return cls(cpus, gpus, _memory(), gpu_memory() if gpus else None)


def gpus_present() -> int:
    """GPUs that NVIDIA's driver has, whoever may see them."""
    return len(list(_NVIDIA.glob("*")))


def visible_gpus() -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES leaves; None when it is not set."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if names is None else [name for name in names.split(",") if name.strip() not in ("", "-1")]


def gpu_memory() -> int | None:
    """Bytes of the smallest GPU here; None where the driver's tool does not tell."""
    try:
        said = subprocess.run(_ASK_GPUS, capture_output=True, text=True, timeout=10, check=True).stdout
        return min(int(line) for line in said.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _gpus() -> int:
    """GPUs that there are and that this process may see."""
    present, visible = gpus_present(), visible_gpus()
    return present if visible is None else min(present, len(visible))


def _cgroup_cpus() -> int:
    """CPUs that a container's quota allows (cgroup v2); without one, as many as there are."""
    try:
        quota, period = _QUOTA.read_text().split()
        return int(quota) // int(period)
    except (OSError, ValueError):  # no such file, or "max": no quota
        return os.cpu_count() or 1


def _memory() -> int:
    """Bytes of memory, or what a container's limit leaves of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(whole, int(_LIMIT.read_text()))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return whole
