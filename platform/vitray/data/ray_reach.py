"""Whether a local folder is the same one on every machine of a Ray cluster: tried, not assumed."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vitray.errors import DataError

_PROBE_S = 60.0


def check_writable(folder: Path, nodes: Sequence[dict[str, Any]]) -> None:
    """Raises DataError unless what each node writes into ``folder`` arrives in this process's."""
    secret = secrets.token_hex(8)
    for host, name in _on_each(nodes, _write_probe, folder, secret):
        probe = folder / str(name)
        if name is None or not probe.is_file() or probe.read_text() != secret:
            raise _elsewhere(folder, host)
        probe.unlink()


def _write_probe(folder: Path, secret: str) -> str:
    name = f".probe-{ray.get_runtime_context().get_node_id()}"
    (folder / name).write_text(secret)
    return name


def check_readable(path: Path, nodes: Sequence[dict[str, Any]]) -> None:
    """Raises DataError unless each node finds at ``path`` what this process finds there."""
    here = _look(path)
    for host, there in _on_each(nodes, _look, path):
        if there != here:
            raise _elsewhere(path, host)


def _look(path: Path) -> tuple[bool, list[str]]:
    return path.is_file(), sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []


def _elsewhere(path: Path, host: str) -> DataError:
    return DataError(
        f"is not the same on {host} of the Ray cluster as here ({socket.gethostname()})",
        where=str(path),
        remedy="use a folder that all its machines share, or a URI as in s3://bucket/folder, or --executor local",
    )


def _on_each(nodes: Sequence[dict[str, Any]], function: Callable[..., Any], *arguments: Any) -> list[tuple[str, Any]]:
    """The host of each node with what ``function`` returns there; None where it failed."""
    asked = [
        ray.remote(function)
        .options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        )
        .remote(*arguments)
        for node in nodes
    ]
    answers = []
    for node, answer in zip(nodes, asked, strict=True):
        try:
            answers.append((node["NodeManagerHostname"], ray.get(answer, timeout=_PROBE_S)))
        except ray.exceptions.RayError:
            answers.append((node["NodeManagerHostname"], None))
    return answers
