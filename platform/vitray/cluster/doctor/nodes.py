"""All machines of a cluster, each looked at by a task of its own, and compared."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vitray.cluster.doctor.finding import Finding, blocks, ok
from vitray.cluster.doctor.node import Seen, look
from vitray.cluster.doctor.packages import versions
from vitray.cluster.doctor.room import same_folder
from vitray.cluster.doctor.tracking import clock

_SHARE = "put VITRAY_HOME on storage that all machines share, at the same path"


@dataclass(frozen=True)
class Answer:
    """A machine's, with when it was asked and answered by the clock here; or why there is none."""

    name: str
    seen: Seen | None
    asked: float
    answered: float
    why: str = ""


def check(home: Path, data: str | None, patience_s: float) -> list[Finding]:
    """Ask every machine that is alive; one that does not answer within ``patience_s`` is a finding too.

    Nobody is asked where this process itself cannot write to ``home``.
    """
    new = not os.path.exists(home)  # noqa: PTH110 (Path.exists raises where it may not look)
    probe = home / f".doctor-{secrets.token_hex(6)}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        _tidy(home, probe.name, new)
        return [blocks("storage", f"cannot write to {home} here: {error.strerror}", f"{_SHARE}, where you may write")]
    try:
        answers = _ask_all(home, probe.name, data, patience_s)
        left = {path.name for path in home.glob(f"{probe.name}-*")}
    finally:
        _tidy(home, probe.name, new)
    found = [_count(answers)]
    for number, answer in enumerate(answers):
        if answer.seen is None:
            remedy = "see its raylet.log, or take it out of the cluster"
            if "No module named 'vitray'" in answer.why:
                remedy = "install vitray there, as here; or run a job, which brings it along: vitray jobs submit"
            found.append(blocks("node", answer.why, remedy).at(answer.name))
            continue
        arrived = f"{probe.name}-{number}" in left
        found += [one.at(answer.name) for one in (*answer.seen.findings, _storage(home, answer.seen, arrived))]
        late = max(answer.asked - answer.seen.clock, answer.seen.clock - answer.answered, 0.0)
        found.append(clock(answer.name, late, 1.0).at(answer.name))
    return [*found, *_same_versions(answers)]


def _tidy(home: Path, probe: str, new: bool) -> None:
    """Remove what the probe left; ``new``: and the folder, unless somebody began to use it."""
    with suppress(OSError):  # another user's, in a folder where each may delete only what is theirs
        for path in home.glob(f"{probe}*"):
            path.unlink(missing_ok=True)
    if new:
        with suppress(OSError):
            home.rmdir()


def _ask_all(home: Path, probe: str, data: str | None, patience_s: float) -> list[Answer]:
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeManagerAddress"]))
    asked, names = {}, _names(nodes)
    for number, node in enumerate(nodes):
        task = ray.remote(look).options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        )
        store = node["Resources"].get("object_store_memory", 0.0)
        asked[task.remote(home, probe, f"{probe}-{number}", node["NodeManagerAddress"], store, data)] = number
    began, answers, waiting = time.time(), {}, list(asked)
    until = time.monotonic() + patience_s
    while waiting and (left := until - time.monotonic()) > 0:
        done, waiting = ray.wait(waiting, timeout=left)
        for one in done:
            answers[asked[one]] = _answer(names[asked[one]], one, began)
    for one in waiting:
        ray.cancel(one, force=True)
        why = f"no answer within {patience_s:.0f} s"
        answers[asked[one]] = Answer(names[asked[one]], None, began, time.time(), why)
    return [answers[number] for number in range(len(nodes))]


def _answer(name: str, reference: Any, began: float) -> Answer:
    try:
        return Answer(name, ray.get(reference), began, time.time())
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        why = next((line.strip() for line in lines if "No module named" in line), lines[-1] if lines else repr(error))
        return Answer(name, None, began, time.time(), why[:300])


def _names(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """Address and host; the id too where several nodes run on one host."""
    usual = [f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})" for node in nodes]
    often = Counter(usual)
    return [
        name if often[name] == 1 else f"{name}, node {node['NodeID'][:8]}"
        for name, node in zip(usual, nodes, strict=True)
    ]


def _count(answers: Sequence[Answer]) -> Finding:
    there = sum(answer.seen is not None for answer in answers)
    total = ray.cluster_resources()
    what = (
        f"{there} of {len(answers)} machines answer: {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs in all"
    )
    if not (total.get("CPU") or total.get("GPU")):
        return blocks("cluster", f"{what}; there is nothing to train on", "add workers to it")
    return ok("cluster", what)


def _storage(home: Path, seen: Seen, arrived: bool) -> Finding:
    if not same_folder(home, seen.home):
        return blocks("storage", f"VITRAY_HOME is {seen.home} there, and {home} here", f"give both the same; {_SHARE}")
    if not seen.read:
        return blocks("storage", f"what is written to {home} here is not seen there", _SHARE)
    if seen.wrote is not None:
        return blocks(
            "storage", f"cannot write to {home} there: {seen.wrote}", "give the user of the Ray node the right"
        )
    if not arrived:
        return blocks("storage", f"what is written to {home} there is not seen here", _SHARE)
    return ok("storage", f"{home} is read and written there, as here")


def _same_versions(answers: Sequence[Answer]) -> list[Finding]:
    """Compared with this process, the driver."""
    here, found = versions(), []
    for answer in answers:
        there = answer.seen.versions if answer.seen else {}
        if apart := [f"{name} {there[name]}, here {here[name]}" for name in there if there[name] != here[name]]:
            found.append(blocks("versions", "; ".join(apart), "install the same on all machines").at(answer.name))
    return found or [ok("versions", "all machines that answer run the same Python, packages and vitray")]
