"""What a sweep's points may cost: parameters, operations, memory. A point over a limit is no part of the space."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitray.experiment import Experiment, ModelConfig
from vitray.model_size import count_parameters, flops
from vitray.train.memory import GIB, least_rank_memory, over, rank_images
from vitray.tune.dimensions import Choice, Dimension, Range

_GIGA = 1e9
MEMORY = ("train.global_batch", "train.accumulate", "train.precision")  # keys beside the model that decide what fits


@dataclass(frozen=True)
class Limits:
    """``parameters`` of a model, forward ``gflops`` of an image, least ``memory_gib`` of a rank's step; as configured.

    ``rank_memory``: bytes that a rank can have, as far as is known.
    """

    parameters: float | None = None
    gflops: float | None = None
    memory_gib: float | None = None
    rank_memory: float | None = None

    @classmethod
    def of(cls, experiment: Experiment, rank_memory: float | None) -> Limits:
        assert experiment.search is not None
        return cls(**dict(experiment.search.limits), rank_memory=rank_memory)

    @property
    def any(self) -> bool:
        return any(limit is not None for limit in (self.parameters, self.gflops, self.memory_gib, self.rank_memory))

    def over(self, experiment: Experiment) -> str | None:
        """Why a resolved experiment is over a limit; None where it is not."""
        if self.parameters is not None and count_parameters(experiment.model) > self.parameters:
            return f"has more than the {self.parameters:,.0f} parameters of search.limits"
        if self.gflops is not None and flops(experiment.model).forward > self.gflops * _GIGA:
            return f"takes more than the {self.gflops:g} GFLOP an image of search.limits"
        if self.memory_gib is not None and least_rank_memory(experiment) > self.memory_gib * GIB:
            return f"needs more memory than the {self.memory_gib:g} GiB a rank of search.limits"
        return over(experiment, self.rank_memory)


class Within:
    """Whether a shape of an experiment is within the limits: with no, some or all values of the other keys."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[Any, list[_Ladder]] = {}

    def of(self, made: Experiment, free: Mapping[str, Dimension]) -> tuple[str | None, int | None]:
        """Why none is; else how many combinations of values for memory are, None where all are.

        ``made`` has the shape's values, ``free`` are the other keys that are searched with it.
        """
        if not self._limits.any:
            return None, None
        ratio = free.get("model.mlp_ratio")  # the one range that decides how large a model is
        ends = (ratio.low, ratio.high) if isinstance(ratio, Range) else (made.model.mlp_ratio,) * 2
        small, large = (made.model.model_copy(update={"mlp_ratio": r}) for r in ends)
        ladders = self._ladders(made, {name: d.values for name in MEMORY if isinstance(d := free.get(name), Choice)})
        refusals = [self._limits.over(ladder.step(0, small)) for ladder in ladders]
        if all(refusals):
            return refusals[0], None
        if not any(self._limits.over(ladder.step(-1, large)) for ladder in ladders):
            return None, None
        return None, sum(ladder.fitting(small, self._limits) for ladder in ladders)

    def _ladders(self, made: Experiment, memory: Mapping[str, Sequence[Any]]) -> list[_Ladder]:
        key = made.train, tuple(memory)
        if key not in self._known:
            self._known[key] = _ladders(made, memory)
        return self._known[key]


@dataclass(frozen=True)
class _Ladder:
    """Experiments that differ in what a rank's step holds, from the least images on, and how many points each is.

    One ladder a precision: within it memory only rises, so that a limit is found by bisection.
    """

    steps: Sequence[Experiment]
    counts: Sequence[int]

    def step(self, index: int, model: ModelConfig) -> Experiment:
        return self.steps[index].model_copy(update={"model": model})

    def fitting(self, model: ModelConfig, limits: Limits) -> int:
        """How many of its points are within the limits with a model."""
        found = bisect_left(range(len(self.steps)), True, key=lambda i: limits.over(self.step(i, model)) is not None)
        return sum(self.counts[:found])


def _ladders(experiment: Experiment, choices: Mapping[str, Sequence[Any]]) -> list[_Ladder]:
    fields = [name.removeprefix("train.") for name in choices]
    found: dict[str, dict[int, list[Experiment]]] = {}
    for values in itertools.product(*choices.values()):
        train = experiment.train.model_copy(update=dict(zip(fields, values, strict=True)))
        step = experiment.model_copy(update={"train": train})
        found.setdefault(train.precision, {}).setdefault(rank_images(step), []).append(step)
    return [
        _Ladder([steps[images][0] for images in sorted(steps)], [len(steps[images]) for images in sorted(steps)])
        for steps in found.values()
    ]
