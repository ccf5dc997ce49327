"""All checks, in the order in which a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vitray.cluster.address import named_address
from vitray.cluster.doctor import accelerator, dataset, doors, packages, room, tracking
from vitray.cluster.doctor.finding import Finding, refused
from vitray.errors import VitrayError
from vitray.home import Home

NODE_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Question:
    """What is asked about.

    ``address``: a cluster, by its head (HOST:PORT) or its dashboard (http://...), None for this machine. ``data``: a
    dataset that must be readable. ``experiment``: an experiment of MLflow that must take runs. ``node_patience_s``:
    seconds to wait for the machines of the cluster.
    """

    home: Home
    address: str | None = None
    data: str | None = None
    experiment: str | None = None
    node_patience_s: float = NODE_PATIENCE_S


def examine(question: Question) -> list[Finding]:
    """Look at this machine, or at a cluster and this machine as its driver. Changes nothing; raises nothing of ours."""
    address = named_address(question.address)
    if address is not None and address.startswith(("http://", "https://")):
        return _by_job(question, address)
    with ThreadPoolExecutor(1) as beside:
        followed = beside.submit(tracking.check, question.home, question.experiment)
        if address is None:
            torch = accelerator.TorchLook()
            found = [*packages.check(), *room.check(question.home.root), *doors.check_token(), *doors.check_ports()]
            if question.data is not None:
                found += dataset.check(question.data)
            return [*found, *torch.findings(), *followed.result()]
        return [*doors.check_token(), *_cluster(question, address), *followed.result()]


def _by_job(question: Question, url: str) -> list[Finding]:
    from vitray.cluster.doctor import by_job

    try:
        return by_job.examine(url, question.data, question.experiment, question.node_patience_s)
    except VitrayError as error:
        return [refused("cluster", error)]


def _cluster(question: Question, address: str) -> Sequence[Finding]:
    from vitray.cluster.local import connect

    try:
        with connect(address):
            from vitray.cluster.doctor import nodes

            guarded = doors.check_cluster(address)
            return [*guarded, *nodes.check(question.home.root, question.data, question.node_patience_s)]
    except VitrayError as error:
        return [refused("cluster", error)]
