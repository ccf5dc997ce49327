"""What the machine did while a rank trained: CPU, memory, network, GPU. Named as MLflow's "System metrics" page wants.

Asked at the end of each epoch, of the first rank's node: rates and shares are means since the last time, so nothing
has to be sampled in between and training pays nothing.
"""

from __future__ import annotations

import contextlib
from typing import Any

import psutil
import torch

PREFIX = "system/"
_MB = 1e6


class SystemMeter:
    """Measures from its own making, or from the last :meth:`read`, on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._sent = self._received = 0.0
        self.read()

    def read(self) -> dict[str, float]:
        """The metrics of the time since the last call; percent of the whole node, megabytes (10^6 bytes).

        Empty where the system does not say, e.g. in a container without /proc: no reason to stop training.
        """
        try:
            return self._read()
        except (OSError, psutil.Error):
            return {}

    def _read(self) -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        network = psutil.net_io_counters()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(None),
            "system_memory_usage_megabytes": (memory.total - memory.available) / _MB,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "rank_memory_megabytes": self._process.memory_info().rss / _MB,
            "rank_cpu_percentage": self._process.cpu_percent(None),
        }
        if network is not None:
            sent, received = network.bytes_sent / _MB, network.bytes_recv / _MB
            found["network_transmit_megabytes"] = max(0.0, sent - self._sent)
            found["network_receive_megabytes"] = max(0.0, received - self._received)
            self._sent, self._received = sent, received
        if self._device.type == "cuda":
            found |= _of_gpu(self._device)
        return {f"{PREFIX}{name}": float(value) for name, value in found.items()}


def _of_gpu(device: torch.device) -> dict[str, float]:
    """Of the rank's own GPU. Use and power need NVML (nvidia-ml-py), which is there where MLflow's own metrics work."""
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(device)
    found: dict[str, Any] = {
        f"gpu_{index}_memory_usage_megabytes": (total - free) / _MB,
        f"gpu_{index}_memory_usage_percentage": 100 * (total - free) / total,
        f"gpu_{index}_memory_peak_megabytes": torch.cuda.max_memory_allocated(device) / _MB,
    }
    with contextlib.suppress(Exception):  # no NVML, or a driver that does not say
        found[f"gpu_{index}_utilization_percentage"] = torch.cuda.utilization(device)
        found[f"gpu_{index}_power_usage_watts"] = torch.cuda.power_draw(device) / 1000
    return found
