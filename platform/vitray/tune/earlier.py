"""``search.from``: the trials of an earlier sweep as what a new one knows already."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from vitray.errors import ConfigError
from vitray.files import when_there_is_room, write_whole
from vitray.search_config import Metric, SearchConfig
from vitray.tune.keys import changed, value_at
from vitray.tune.pareto import objective_values
from vitray.tune.plan import SweepPlan
from vitray.tune.proposer import Earlier, make_proposer
from vitray.tune.record import TrialRecord
from vitray.tune.space import Frozen, frozen, hashed
from vitray.tune.state import load_sweep

_FILE = "earlier.json"
log = logging.getLogger(__name__)


def earlier_trials(runs: Path, name: str, plan: SweepPlan, fingerprint: str) -> Earlier:
    """The trials of the sweep ``name`` that ended and lie in this plan's space, each with its point of this space.

    A trial that searched fewer keys counts with the values that its config had. How many lie outside is logged. What it
    tried is tried again where it would be another training now: a wider model, or more epochs.

    Raises:
        ConfigError: there is no such sweep, it still runs, it was of other data (``fingerprint``), none of its trials
            lies in this space, none reported what this search wants, or they are all that this search could try.
    """
    saved = load_sweep(runs, name)
    if saved.status == "running":
        raise ConfigError(f"sweep {name!r} still runs", where="search.from", remedy="wait for it, or stop it")
    if saved.fingerprint != fingerprint:
        raise ConfigError(
            f"sweep {name!r} was of other data (fingerprint {saved.fingerprint[:12]}, not {fingerprint[:12]})",
            where="search.from",
            remedy="name a sweep of this dataset, or leave search.from unset",
        )
    ended = [r for r in saved.records if r.kind == "search" and r.ended and (r.reports or r.status == "failed")]
    if not any(record.reports for record in ended):
        raise ConfigError(f"no trial of sweep {name!r} was trained", where="search.from", remedy="name another sweep")
    fitting, base, repeated = [], saved.experiment, set[Frozen]()
    for record in ended:
        trial = changed(base, {**record.values, **record.point})
        point = plan.space.point_in({name: value_at(trial, name) for name in plan.space.dimensions})
        if point is not None:
            model = {f"model.{name}": value for name, value in trial.model}  # its size is one of nsga2's objectives
            fitting.append(replace(record, point=point, values=model | dict(point), first_point=None))
            if not record.changes and trial.identity == changed(plan.experiment, point).identity:
                repeated.add(frozen(point))
    if not any(record.reports for record in fitting):
        raise ConfigError(
            f"none of the {len(ended)} trials of sweep {name!r} lies in this space: it searched "
            f"{', '.join(saved.search['space'])}",
            where="search.from",
            remedy=f"name a sweep with values of {', '.join(plan.space.dimensions)} that are in search.space",
        )
    if plan.search.algorithm in ("tpe", "nsga2"):
        _check_wanted(name, plan, fitting)
    if left_out := len(ended) - len(fitting):
        log.warning("%d of %d trials of sweep %s lie outside this space and are left out", left_out, len(ended), name)
    earlier = Earlier(fitting, frozenset(repeated))
    if make_proposer(plan, earlier).propose([]) is None:
        raise ConfigError(
            f"sweep {name!r} has tried every point of this space",
            where="search.from",
            remedy="add values to search.space, or leave search.from unset",
        )
    return earlier


def kept(folder: Path, find: Callable[[], Earlier]) -> Earlier:
    """What a sweep began with, as it lies in its folder; found, and written there, when it begins.

    The other sweep may be resumed or removed meanwhile, and this one must go on as it would have.
    """
    path = folder / _FILE
    if not path.is_file():
        found = find()
        folder.mkdir(parents=True, exist_ok=True)
        content = {"records": [vars(r) for r in found.records], "repeated": [list(p) for p in found.repeated]}
        text = json.dumps(content, default=dict)
        when_there_is_room(lambda: write_whole(path, text), path, len(text))
    content = json.loads(path.read_text())
    repeated = (frozenset((name, hashed(value)) for name, value in point) for point in content["repeated"])
    return Earlier([TrialRecord(**record) for record in content["records"]], frozenset(repeated))


def _check_wanted(name: str, plan: SweepPlan, trials: Sequence[TrialRecord]) -> None:
    missing = [wanted for wanted in _wanted(plan.search) if not any(_has(plan, r, wanted) for r in trials)]
    if missing:
        known = [metric for metric in get_args(Metric) if any(_has(plan, record, metric) for record in trials)]
        raise ConfigError(
            f"no trial of sweep {name!r} reported {', '.join(missing)}",
            where="search.from",
            remedy=f"they reported {', '.join(known)}; search for one of these, or name another sweep",
        )


def _wanted(search: SearchConfig) -> Sequence[str]:
    return search.objectives if search.algorithm == "nsga2" else (search.metric,)


def _has(plan: SweepPlan, record: TrialRecord, wanted: str) -> bool:
    return not math.isnan(objective_values(record, plan.experiment, (wanted,))[0])
