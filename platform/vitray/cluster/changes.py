"""What of a sweep's config may differ when it goes on, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitray.experiment import Experiment
from vitray.masking import public
from vitray.overrides import parse_override

# What says how far a sweep goes, not what it searches: a resume may change it.
_MAY_CHANGE = (
    "search.budget.",
    "search.max_code_errors",
    "search.concurrent",
    "search.finalists",
    "search.seeds",
    "cluster.max_restarts",
    "cluster.hang_timeout_s",
    "train.checkpoint_steps",
    "train.work_at_risk",
    "train.keep_",
)


def overridden(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The experiment with ``section.key=value`` words applied."""
    return experiment.with_values(dict(parse_override(word) for word in overrides)) if overrides else experiment


def config_changes(saved: Experiment, asked: Experiment) -> list[str]:
    """What differs that must not, key by key, in words."""
    before, after = (_flat(experiment.model_dump(mode="json")) for experiment in (saved, asked))
    return [
        public(f"{key} was {before.get(key)!r}, is {after.get(key)!r}")
        for key in before | after
        if before.get(key) != after.get(key) and not key.startswith(_MAY_CHANGE)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat
