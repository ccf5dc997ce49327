"""The network interface that ranks on several hosts talk over: the one that carries their Ray node's address.

Left alone, gloo takes the address that the host's own name resolves to, often 127.0.0.1, and waits a minute for peers
that cannot reach it; NCCL takes the first interface that is up, a container bridge perhaps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil
import ray
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from vitray.train.ranks import lost_peer
from vitray.train.rendezvous import listen_on_one_address


@dataclass
class GroupTorchConfig(TorchConfig):
    """Ray Train's own, with each rank's interface named before the process group starts."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _NamedInterfaces


_STARTS = 3  # in a row in which ranks lost each other before they had begun


class _NamedInterfaces(_TorchBackend):
    def __init__(self) -> None:
        super().__init__()
        self._lost = 0  # starts in a row

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        try:
            self._start(worker_group, backend_config)
        except Exception as error:
            # Ray Train takes the group for started by now, and would leave its placement group behind: its CPUs would
            # be nobody's.
            worker_group._worker_group_state.shutdown()
            self._lost += 1
            if lost_peer(getattr(error, "cause", None) or error) and self._lost < _STARTS:
                raise ray.exceptions.RayActorError(error_msg=str(error)) from error  # Ray Train then starts anew
            raise
        self._lost = 0

    def _start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        # On one host everything is reached by any of its addresses.
        if len({worker.metadata.node_ip for worker in worker_group.get_workers()}) > 1:
            worker_group.execute(_name_interface)
        worker_group.execute(listen_on_one_address)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        """Nothing: the ranks are killed next, and one whose host is gone would be waited for, for many seconds."""


def interface_of(address: str) -> str | None:
    """The name of the interface of this host with an IP address; None where no interface has it (NAT, say)."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address.partition("%")[0] == address for known in addresses):  # IPv6 may name its zone
            return name
    return None


def interface_variables(interface: str) -> dict[str, str]:
    """What gloo and NCCL read. For NCCL the ``=`` says that eth1 does not mean eth10 as well."""
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}


def _name_interface() -> None:
    """Runs in a rank's process. What somebody has set stays."""
    if (interface := interface_of(ray.util.get_node_ip_address())) is not None:
        for name, value in interface_variables(interface).items():
            os.environ.setdefault(name, value)
