"""What one value of a key brings over another: by matched pairs where there are some, else adjusted for all other keys.

Every trial sees the same images in the same order, so two trials that differ in one key alone are a matched pair, and
the mean of their differences has an interval that is free of what all other keys do. A random search leaves hardly a
pair; then a linear model of the other keys takes their part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vitray.errors import ConfigError
from vitray.search_config import SearchConfig
from vitray.train.intervals import of_mean
from vitray.tune.conditions import parse_condition
from vitray.tune.report.sample import Array, Observation, Sample

ENOUGH_PAIRS = 3
_SPARE = 4  # trials beyond the unknowns of a linear model, the fewest for an interval worth its name
_ROOM_FOR_CURVES = 10


@dataclass(frozen=True)
class Difference:
    """Of a value over the reference, in units of the score, with its 95 % interval (NaN where there is none).

    ``pairs``: of trials that differ in this key alone; ``trials``: that have the value. ``method``: what the number
    rests on; none where nothing can be told.
    """

    value: Any
    mean: float
    low: float
    high: float
    pairs: int
    trials: int
    method: Literal["pairs", "adjusted", "none"]


@dataclass(frozen=True)
class Comparison:
    """Of all values of a key with one of them. ``reference_trials``: how many have that one."""

    key: str
    reference: Any
    reference_trials: int
    rows: Sequence[Difference]


def compare(sample: Sample, key: str, keys: Sequence[str], search: SearchConfig, order: Sequence[Any]) -> Comparison:
    """Compare the values of a choice after the common epoch.

    Args:
        keys: all searched keys; the others are held equal or adjusted for.
        order: values in the order of the space. The first is what others are compared with, unless hardly a trial
            has it: no result decides which, so that luck is not taken for a lead.
    """
    having = [o for o in sample.observations if key in o.point]
    values = [v for v in order if any(o.point[key] == v for o in having)] or sample.values(key)
    counts = {v: sum(o.point[key] == v for o in having) for v in values}
    most = max(counts.values())
    reference = next(v for v in values if 2 * counts[v] >= most)
    others = [v for v in values if v != reference]
    ties = conditional_on(key, search)
    pairs = {v: matched_pairs(having, key, v, reference, ties) for v in others}
    adjusted = _adjusted(Sample(sample.epoch, having, 0), key, [k for k in keys if k != key], reference, others)
    rows = []
    for value in others:
        differences = pairs[value]
        if len(differences) >= ENOUGH_PAIRS:
            row = (math.fsum(differences) / len(differences), *of_mean(differences))
            rows.append(Difference(value, *row, len(differences), counts[value], "pairs"))
        elif value in adjusted:
            rows.append(Difference(value, *adjusted[value], len(differences), counts[value], "adjusted"))
        else:
            rows.append(Difference(value, math.nan, math.nan, math.nan, len(differences), counts[value], "none"))
    return Comparison(key, reference, counts[reference], rows)


def matched_pairs(
    observations: Sequence[Observation], key: str, value: Any, reference: Any, ties: frozenset[str] = frozenset()
) -> list[float]:
    """Differences in score, value less reference, one for each setting of all other keys that has both.

    ``ties``: keys that are searched only for some values of this one; they belong to the value, and are averaged over.
    """
    settings: dict[frozenset[tuple[str, Any]], tuple[list[float], list[float]]] = {}
    for seen in observations:
        if seen.point[key] in (value, reference):
            rest = frozenset((k, v) for k, v in seen.point.items() if k != key and k not in ties)
            settings.setdefault(rest, ([], []))[seen.point[key] == reference].append(seen.score)
    return [float(np.mean(ours) - np.mean(theirs)) for ours, theirs in settings.values() if ours and theirs]


def conditional_on(key: str, search: SearchConfig) -> frozenset[str]:
    """Keys that are searched only where this one, or one that depends on it, has certain values."""
    deciding: dict[str, str] = {}
    for name, written in search.space.items():
        if isinstance(written, Mapping) and "when" in written:
            try:
                deciding[name] = parse_condition(name, written["when"]).key
            except ConfigError:
                continue
    found = {key}
    while more := {name for name, by in deciding.items() if by in found} - found:
        found |= more
    return frozenset(found - {key})


def _adjusted(
    sample: Sample, key: str, others: Sequence[str], reference: Any, values: Sequence[Any]
) -> dict[Any, tuple[float, float, float]]:
    """Mean and interval of each value's effect in a linear model with all keys in it; none where it has no room."""
    held = [o.point[key] for o in sample.observations]
    effects = np.array([[float(h == v) for v in values] for h in held]).reshape(len(held), -1)
    for curved in (True, False):  # a range often has its best in the middle, where there are trials enough to see it
        around = [sample.columns(k, curved=curved and not sample.is_choice(k)) for k in others]
        design = np.concatenate([effects, np.ones((len(held), 1)), *around], axis=1)
        spare = len(held) - int(np.linalg.matrix_rank(design))
        if spare >= (_ROOM_FOR_CURVES if curved else _SPARE):
            return _least_squares(design, sample.scores, values, spare)
    return {}


def _least_squares(
    design: Array, scores: Array, values: Sequence[Any], spare: int
) -> dict[Any, tuple[float, float, float]]:
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    inverse = np.linalg.pinv(design)
    weights = inverse @ scores
    noise = float(((scores - design @ weights) ** 2).sum()) / spare
    reach = float(stdtrit(spare, 0.975))
    found = {}
    seen = inverse @ design  # the identity in the rows of what the trials can tell apart
    for i, value in enumerate(values):
        if np.allclose(seen[i], np.eye(design.shape[1])[i], atol=1e-6):
            half = reach * math.sqrt(noise * float((inverse[i] ** 2).sum()))
            found[value] = (float(weights[i]), float(weights[i]) - half, float(weights[i]) + half)
    return found
