"""Searches that cannot work, refused before anything starts."""

from __future__ import annotations

import json

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.search_config import SearchConfig
from vitray.tune.space import Space

# What a training reads anew at every step and no weight depends on. Other keys shape the model or the optimizer's
# state, decide the order of the data, or have their effect at the start.
IN_FLIGHT = (
    "optim.lr",
    "optim.weight_decay",
    "optim.betas",
    "optim.min_lr_ratio",
    "train.label_smoothing",
    "train.mixup",
    "train.cutmix",
    "train.switch_prob",
    "train.clip_grad",
    "model.dropout",
    "model.attn_dropout",
    "model.drop_path",
)
_IN_FLIGHT_BELOW = "data.augment."


def check_search(experiment: Experiment, space: Space) -> None:
    """Refuse what a search of a compiled space cannot do.

    Raises:
        ConfigError: one valid point; conditions, for nsga2 or pbt; keys that pbt cannot change while it trains; no
            comparison of a population before its last epoch, or nothing to compare.
    """
    search = experiment.search
    assert search is not None
    if space.valid_size <= 1:
        values = " ".join(f"{name}={_written(value)}" for name, value in next(space.grid()).items())
        why = f" (of the others: {max(space.refused, key=space.refused.__getitem__)})" if space.refused else ""
        raise ConfigError(
            f"has one valid point, so there is nothing to search{why}",
            where="search.space",
            remedy=f"train it with: vitray train CONFIG {values}; or list more values",
        )
    if search.algorithm == "nsga2":
        _check_unconditional(space, "search.algorithm", "nsga2 crosses points, which must all have the same keys")
    if search.scheduler == "pbt":
        _check_population(experiment, search, space)


def _check_population(experiment: Experiment, search: SearchConfig, space: Space) -> None:
    _check_unconditional(space, "search.scheduler", "pbt hands values on, so every point must have the same keys")
    fixed = [name for name in space.dimensions if name not in IN_FLIGHT and not name.startswith(_IN_FLIGHT_BELOW)]
    if fixed:
        raise ConfigError(
            f"pbt changes values while it trains, which {', '.join(fixed)} cannot",
            where="search.scheduler",
            remedy=f"search {', '.join(IN_FLIGHT)} or {_IN_FLIGHT_BELOW}* with pbt, or take search.scheduler=asha",
        )
    if search.earlier is not None:
        raise ConfigError(
            "pbt finds its values from the weights of its own members, so another sweep's trials are no help",
            where="search.from",
            remedy="leave it unset, or set search.algorithm=tpe and search.scheduler=asha",
        )
    if search.perturb_epochs >= experiment.train.epochs:
        raise ConfigError(
            f"is {search.perturb_epochs}, so that a population of train.epochs={experiment.train.epochs} is never "
            "compared before it ends",
            where="search.perturb_epochs",
            remedy=(
                f"set search.perturb_epochs={max(1, experiment.train.epochs // 10)}"
                if experiment.train.epochs > 1
                else "raise train.epochs"
            ),
        )
    if search.trials < 2:
        raise ConfigError(
            "is 1, and pbt compares the members of a population",
            where="search.trials",
            remedy="set search.trials=8 or so",
        )


def _check_unconditional(space: Space, where: str, what: str) -> None:
    if conditional := list(space.conditions.by_key):
        raise ConfigError(
            f"{what}, but {', '.join(conditional)} has a condition (when)",
            where=where,
            remedy="search the key without a condition, or set search.algorithm=tpe with search.scheduler=asha",
        )


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
