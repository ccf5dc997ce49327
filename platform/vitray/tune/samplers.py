"""Optuna's samplers as a sweep uses them.

TPE: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", with the joint density of all keys (Falkner et
al. 2018, BOHB), and with running trials counted as bad ones, so that trials at once differ.
NSGA-II: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm".
"""

from __future__ import annotations

import warnings
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial

from vitray.tune.space import Space
from vitray.tune.suggest import distributions


class Tpe(TPESampler):
    """TPE over keys that every trial has, which it would else look up in all of them each time."""

    def __init__(self, together: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(multivariate=True, **options)
        self._together = together

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._together


class Nsga2(NSGAIISampler):
    """NSGA-II over keys that every trial has."""

    def __init__(self, together: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(**options)
        self._together = together

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._together

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        # Optuna orders them differently when it asks for the second time, and which ones are crossed is drawn by place.
        return sorted(super().get_parent_population(study, generation), key=lambda trial: trial.number)


GENERATION = Nsga2._get_generation_key()  # where a finished trial says which generation it is of


def make_sampler(space: Space, algorithm: str, begin: int, seed: int) -> BaseSampler:
    """A fresh sampler. ``begin``: trials before TPE guides, or those of a generation."""
    together = {name: d for name, d in sorted(distributions(space).items()) if not d.single()}
    if algorithm == "nsga2":
        return Nsga2(together, population_size=begin, seed=seed)
    if not space.conditions.by_key:
        return Tpe(together, n_startup_trials=begin, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Keys that are always part of a point together are drawn together.
        return TPESampler(n_startup_trials=begin, multivariate=True, group=True, seed=seed)
