"""A job before it is submitted: its words, config and variables, checked against the cluster that it is for.

What can be refused is refused here, in a second, and not by a job that has waited for its turn.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_paths import seen_path
from vitray.cluster.job_room import Nodes
from vitray.cluster.job_secrets import refuse_secrets
from vitray.errors import ConfigError, DataError, ResourceError
from vitray.experiment import Experiment
from vitray.overrides import PATHS, load_mapping, to_yaml
from vitray.train.resources import plan_groups

_SHARED = "prepare it where all machines of the cluster see it (a shared folder, s3://...), and name that"


@dataclass
class Request:
    """``words``: of `vitray`, as the job's driver gets them; ``files``: what is sent beside them, by name.

    ``name``: what people call the job; ``notes``: what they should know before it runs.
    """

    kind: str
    name: str
    words: list[str]
    files: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """The cluster that a job is for."""

    dashboard: Dashboard
    nodes: Nodes

    @classmethod
    def of(cls, dashboard: Dashboard, tell: Callable[[str], None] = lambda _: None) -> Target:
        """See :meth:`Nodes.of`."""
        return cls(dashboard, Nodes.of(dashboard, tell))

    @property
    def here(self) -> bool:
        return self.nodes.here

    @property
    def notes(self) -> list[str]:
        ours, theirs = importlib.metadata.version("ray"), self.dashboard.ray_version
        return [] if ours == theirs else [f"the cluster runs Ray {theirs}, and this vitray was made for {ours}"]


def training(
    kind: str,
    target: Target,
    config: str | None,
    overrides: Sequence[str],
    *,
    resume: str | None = None,
    name: str | None = None,
    flags: Sequence[str] = (),
) -> Request:
    """A training or a sweep, new or resumed. ``resume``: a run's name, or the id of the job that it was; ``name``: what
    people call the new job, if not after its run.

    Raises:
        ConfigError, DataError: the config is wrong, or names what only this machine sees.
        ResourceError: the cluster does not have what it needs, and cannot grow.
    """
    if resume is not None:
        refuse_secrets({"the overrides": " ".join(overrides)})
    if resume is not None and kind == "train" and overrides:
        raise ConfigError(
            f"a training goes on as it was begun, and not with {', '.join(overrides)}",
            where=f"--resume {resume}",
            remedy="resume without overrides and --worker-gpus, or start a new run",
        )
    request = Request(kind, name or resume or "", [])
    sent: list[str] = []
    if config is not None:
        sent = [Path(config).name]
        its_name = _add_config(request, target, config, () if resume else overrides, sweep=kind == "sweep")
        request.name = name or resume or its_name
    if resume is None:
        request.words = [kind, *(["run"] if kind == "sweep" else []), *flags, *sent]
    elif kind == "sweep":
        request.words = ["sweep", "resume", *flags, *(["--config", *sent] if sent else []), resume, *overrides]
    else:
        request.words = ["train", "--resume", resume, *flags, *sent]
    return request


def _add_config(request: Request, target: Target, config: str, overrides: Sequence[str], *, sweep: bool) -> str:
    """The config with its overrides, as one file that needs no other; returns the run's name."""
    experiment = Experiment.load(config, overrides)
    values = load_mapping(config, overrides, root=Experiment, resolve=target.here)
    refuse_secrets(dict(_texts(values)))
    for section, key in PATHS:
        if isinstance(path := (values.get(section) or {}).get(key), str):
            _check_path(path, f"{section}.{key}", target)
    if sweep:
        from vitray.tune.space import search_of

        search_of(experiment)
    _check_room(experiment, target, request, sweep=sweep)
    request.files[Path(config).name] = to_yaml(values)
    return experiment.name or Path(config).stem


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts of a config, in whatever depth, with their dotted keys."""
    if isinstance(values, str):
        yield key, values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, Sequence):
        for at, value in enumerate(values):
            yield from _texts(value, f"{key}[{at}]")


def _check_path(path: str, key: str, target: Target) -> None:
    remedy = _SHARED if key == "data.path" else "name a folder that its machines see, or a URI"
    seen = seen_path(path, where=key, here=target.here, remedy=remedy)
    made = key == "train.checkpoints"  # by the first run that writes there
    if target.here and not made and Path(seen).is_absolute() and not Path(seen).exists():
        remedy = "prepare it: vitray data prepare SOURCE DEST" if key == "data.path" else "check the path"
        raise DataError("does not exist", where=f"{key}={path}", remedy=remedy)


def _check_room(experiment: Experiment, target: Target, request: Request, *, sweep: bool) -> None:
    wanted = experiment.search.concurrent if sweep and experiment.search is not None else 1
    groups = None if wanted == "auto" else wanted
    try:
        plan_groups(experiment.cluster, **target.nodes.room, groups=groups, data_workers=experiment.data.workers)
    except ResourceError as error:
        if not target.nodes.scales:
            error.what += f" ({target.nodes.describe()})"
            raise
        request.notes.append(f"{error.what} now: the job will wait for what the autoscaler adds, or say that it cannot")


def command(kind: str, target: Target, pieces: Sequence[tuple[str | None, str]], name: str) -> Request:
    """A preparation or a scoring.

    Args:
        pieces: the words of `vitray`; those that are paths or URIs with what they are, as in ("DEST", "s3://b/digits").
        name: of the job.

    Raises:
        ConfigError: a path is on this machine alone, or a word holds a credential.
    """
    refuse_secrets({what or "an option": text for what, text in pieces})
    remedy = "name a folder that its machines see, or a URI (s3://bucket/folder)"
    words = [
        text if what is None else seen_path(text, where=what, here=target.here, remedy=remedy) for what, text in pieces
    ]
    return Request(kind, name, words)
