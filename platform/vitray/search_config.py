"""The ``search`` section of a config: what a sweep varies, how it looks for the best, when it stops."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import Field, create_model, model_validator

from vitray.config_base import Positive, Section

Metric = Literal["val/accuracy", "val/loss", "train/loss"]
Objective = Literal["val/accuracy", "val/loss", "train/loss", "parameters", "gflops", "latency_ms"]
HIGHER_IS_BETTER = frozenset({"val/accuracy"})
_EVERY_POINT = 10_000  # of a grid, which has no number of trials of its own
_MOST_TRIED = 1_000

if TYPE_CHECKING:
    _Named = Section
else:  # `search.from` is the name that people write, and a class body cannot say it
    _Named = create_model("_Named", __base__=Section, **{"from": (str | None, None)})


def model_choices(space: Any, given: Container[str]) -> Iterator[dict[str, Any]]:
    """Combinations of the model's keys that every point of a space has, but for those that are ``given``.

    Every trial has its own values of these, so where the defaults do not fit the rest, one of these may stand in.
    """
    listed = {}
    for key, raw in space.items() if isinstance(space, dict) else ():
        kind, values = next(iter(raw.items())) if isinstance(raw, dict) and len(raw) == 1 else ("values", raw)
        if kind == "int" and isinstance(values, list):
            values = values[:2]  # its ends
        section, _, name = str(key).partition(".")
        if section == "model" and name not in given and kind in ("values", "int") and isinstance(values, list):
            listed[name] = values
    combinations = itertools.product(*listed.values()) if listed else ()
    return (dict(zip(listed, values, strict=True)) for values in itertools.islice(combinations, _MOST_TRIED))


class LimitsConfig(Section):
    """What is no part of a sweep's space: models of more ``parameters``, that take more ``gflops`` (forward, an image)
    or, at the least, more ``memory_gib`` for a rank's training step."""

    parameters: Annotated[float, Field(gt=0)] | None = None
    gflops: Annotated[float, Field(gt=0)] | None = None
    memory_gib: Annotated[float, Field(gt=0)] | None = None


class BudgetConfig(Section):
    """What a search may spend; at the first of these it stops at the next reports, and still names a winner.

    ``trials`` that ended, ``minutes`` since it began (without the time between an interruption and its resume), and
    ``worker_hours``: the hours of every rank that trials had. Repeats and the final retraining come on top.
    """

    trials: Positive | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    worker_hours: Annotated[float, Field(gt=0)] | None = None


class SearchConfig(_Named):
    """A sweep: the space and its limits, how it is searched, and what counts as best.

    ``trials``: 16, or with algorithm grid every valid point (up to 10,000).
    ``from``: an earlier sweep of this home whose trials the search begins with. ``objectives``: what nsga2 trades off.
    ``grace_epochs``: the first rung of asha, and what median waits for. ``reduction_factor``: of asha and hyperband.
    PBT compares its members every ``perturb_epochs``; its worst ``quantile`` goes on from the weights of its best.
    ``finalists`` by ``metric`` are trained anew with ``seeds`` other seeds each before the winner is named (1 and 1:
    the best trial wins as it is). ``retrain``: the winner, from its start on train+val; by default not with pbt, whose
    values changed on the way to the weights. ``max_code_errors``: trials that end in an error of the code before the
    sweep stops.
    """

    space: dict[str, Any]
    limits: LimitsConfig = LimitsConfig()
    trials: Positive = 16
    algorithm: Literal["grid", "random", "tpe", "nsga2"] = "random"
    objectives: tuple[Objective, ...] = ()
    scheduler: Literal["none", "asha", "hyperband", "median", "pbt"] = "asha"
    grace_epochs: Positive = 5
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    perturb_epochs: Positive = 4
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    metric: Metric = "val/accuracy"
    mode: Literal["max", "min"] = "max"
    seed: Annotated[int, Field(ge=0)] = 0
    concurrent: Positive | Literal["auto"] = "auto"
    budget: BudgetConfig = BudgetConfig()
    max_code_errors: Positive = 3
    finalists: Positive = 1
    seeds: Positive = 1
    retrain: bool = True
    retrain_epochs: Positive | None = None

    @property
    def earlier(self) -> str | None:
        """The sweep that this one begins with: ``search.from``."""
        name: str | None = getattr(self, "from")
        return name

    @property
    def repeats(self) -> int:
        """Trials that finalists are repeated in; none where one seed of one finalist is asked for."""
        return 0 if self.finalists == self.seeds == 1 else self.finalists * self.seeds

    @model_validator(mode="before")
    @classmethod
    def _what_follows(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if str(values.get("metric")).endswith("loss"):  # less is better
            values.setdefault("mode", "min")
        if values.get("algorithm") == "nsga2":  # what is stopped early has no place on a front
            values.setdefault("scheduler", "none")
            values.setdefault("objectives", ("val/accuracy", "gflops"))
        if values.get("algorithm") == "grid":
            values.setdefault("trials", _EVERY_POINT)
        if values.get("scheduler") == "pbt":
            values.setdefault("retrain", False)
        return values

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.algorithm == "nsga2":
            if self.scheduler != "none":
                raise ValueError(
                    f"algorithm nsga2 compares trials of full length, but scheduler is {self.scheduler}; "
                    "set search.scheduler=none"
                )
            if len(set(self.objectives)) < 2 or len(set(self.objectives)) < len(self.objectives):
                raise ValueError(
                    f"algorithm nsga2 wants two or more different objectives, not {list(self.objectives)}; "
                    "for one, set search.algorithm=tpe"
                )
            if not set(self.objectives) & set(get_args(Metric)):
                raise ValueError(
                    f"objectives {list(self.objectives)} need no training; add val/accuracy, or see: vitray models cost"
                )
        elif self.objectives:
            raise ValueError(
                f"objectives are for algorithm nsga2, not {self.algorithm}; set search.algorithm=nsga2, or name one "
                "search.metric"
            )
        if (self.metric in HIGHER_IS_BETTER) != (self.mode == "max"):
            raise ValueError(
                f"mode {self.mode} would look for the worst {self.metric}; leave search.mode unset, it follows from "
                "search.metric"
            )
        if self.scheduler == "pbt" and self.algorithm not in ("random", "grid"):
            raise ValueError(
                f"scheduler pbt finds its values while it trains and only begins with those of algorithm random or "
                f"grid, not {self.algorithm}"
            )
        if self.scheduler == "pbt" and self.repeats:
            raise ValueError(
                "scheduler pbt changes values while it trains, so a repeat with the last of them would be another "
                "training; leave finalists and seeds at 1"
            )
        return self
