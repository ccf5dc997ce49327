"""What a member of a population tries next."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.experiment import Experiment
from vitray.tune.explore import explore
from vitray.tune.space import Space, compile_space


def space_of(space: dict[str, Any]) -> Space:
    return compile_space(
        Experiment(
            data={"path": "/data"},
            model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "embed_dim": 64, "num_heads": 4},
            search={"space": space},
        )
    )


SPACE = space_of(
    {
        "optim.lr": {"log": [1e-4, 1e-2]},
        "train.mixup": {"uniform": [0.0, 0.5]},
        "optim.betas": [[0.9, 0.95], [0.9, 0.99], [0.9, 0.999]],
        "train.clip_grad": [5.0, 1.0, 2.0, 10.0],
        "model.drop_path": [0.0, 0.1],
        "data.augment.policy": ["none", "randaugment", "trivialaugment"],
    }
)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_new_point_is_valid_near_and_a_function_of_the_generator(point_seed: int, seed: int) -> None:
    (point,) = SPACE.random(1, point_seed)
    found = explore(point, SPACE, np.random.default_rng(seed))
    assert SPACE.point_in(found) == found
    assert explore(json.loads(json.dumps(dict(point))), SPACE, np.random.default_rng(seed)) == found
    assert list(found) == list(SPACE.dimensions)


def test_values_move_to_a_neighbour_by_a_factor_or_one_in_four_anew() -> None:
    point = {
        "optim.lr": 1e-3, "train.mixup": 0.45, "optim.betas": (0.9, 0.95), "train.clip_grad": 2.0,
        "model.drop_path": 0.0, "data.augment.policy": "randaugment",
    }  # fmt: skip
    generator = np.random.default_rng(0)
    found = [explore(point, SPACE, generator) for _ in range(2000)]
    rates = [p["optim.lr"] for p in found]
    anew = [r for r in rates if r not in (0.8e-3, 1.25e-3)]
    assert 0.2 < len(anew) / len(rates) < 0.3
    assert min(anew) < 3e-4 < 3e-3 < max(anew)
    assert 0.3 < rates.count(0.8e-3) / len(rates) < 0.45
    assert max(p["train.mixup"] for p in found) == 0.5, "clipped"
    clips = [p["train.clip_grad"] for p in found]
    assert clips.count(1.0) + clips.count(5.0) > 0.8 * len(found), "neighbours by size, however they are listed"
    assert {p["optim.betas"] for p in found} == set(SPACE.dimensions["optim.betas"].values)  # type: ignore[union-attr]
    assert sum(p["data.augment.policy"] != "randaugment" for p in found) > 0.8 * len(found)


TIGHT = space_of(
    {
        "model.embed_dim": [24, 36, 64],
        "model.num_heads": [2, 3, 4, 7],
        "optim.lr": {"values": [1e-3, 1e-2], "when": "model.num_heads != 2"},
    }
)


@settings(max_examples=50)
@given(st.integers(0, 1000))
def test_a_point_among_invalid_ones_stays_or_becomes_another_valid_one(seed: int) -> None:
    (point,) = TIGHT.random(1, seed)
    found = explore(point, TIGHT, np.random.default_rng(seed))
    assert TIGHT.point_in(found) == found
