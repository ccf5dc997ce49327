"""What an autoscaler may add to a cluster.

Ray does not tell: its autoscalers keep their limits to themselves. So the environment of the cluster's machines does:
``VITRAY_MAX_CPUS`` and ``VITRAY_MAX_GPUS`` of the whole cluster, ``VITRAY_NODE_CPUS`` of its largest machine.
"""

from __future__ import annotations

import os

from vitray.errors import ConfigError
from vitray.train.resources import Room


def grown(room: Room) -> Room:
    """What the cluster has or can come to have. What a job needs beyond what is there now, it waits for.

    Raises:
        ConfigError: a variable that is no number.
    """
    return {
        **room,
        "cpus": max(room["cpus"], _most("VITRAY_MAX_CPUS")),
        "gpus": max(room["gpus"], _most("VITRAY_MAX_GPUS")),
        "node_cpus": max(room["node_cpus"] or 0.0, _most("VITRAY_NODE_CPUS")) or None,
    }


def _most(name: str) -> float:
    text = os.environ.get(name) or "0"
    try:
        return float(text)
    except ValueError:
        raise ConfigError("is no number", where=f"{name}={text}", remedy="correct or unset it") from None
