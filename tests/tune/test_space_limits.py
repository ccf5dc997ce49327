"""Limits on what a sweep's points may cost: what is over one is no part of the space, and the rest is counted right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.model_size import count_parameters, flops
from vitray.train.memory import GIB, least_rank_memory
from vitray.tune.space import compile_space

BASE = Experiment(
    data={"path": "/data"},
    model={"image_size": 32, "patch_size": 8, "in_chans": 3, "num_classes": 10, "embed_dim": 64, "num_heads": 4},
)


def experiment(space: dict[str, Any], **limits: float) -> Experiment:
    return BASE.with_values({"search.space": space, "search.limits": limits})


@settings(max_examples=15)
@given(
    share=st.floats(0.05, 1.1),
    kind=st.sampled_from(["parameters", "gflops", "memory_gib", "rank"]),
    accumulate=st.booleans(),
    precision=st.booleans(),
    when=st.sampled_from(["", "model.depth == 9", "train.precision == bfloat16"]),
)
def test_a_point_is_part_of_it_when_and_only_when_it_is_within_the_limit(
    share: float, kind: str, accumulate: bool, precision: bool, when: str
) -> None:
    batches: Any = [1, 8, 64, 512]
    raw: dict[str, Any] = {
        "model.depth": [1, 9],
        "model.patch_size": [4, 5, 16],
        "train.global_batch": {"values": batches, "when": when} if when else batches,
    }
    raw |= {"train.accumulate": [1, 2]} if accumulate else {}
    raw |= {"train.precision": ["float32", "bfloat16"]} if precision else {}

    def cost(point: Any) -> float:
        made = BASE.with_values(dict(point))
        if kind == "parameters":
            return float(count_parameters(made.model))
        return flops(made.model).forward / 1e9 if kind == "gflops" else least_rank_memory(made) / GIB

    every = list(compile_space(experiment(raw)).grid())
    limit = share * max(map(cost, every))
    expected = [point for point in every if cost(point) <= limit]
    memory = limit * GIB if kind == "rank" else None
    asked = experiment(raw, **({} if kind == "rank" else {kind: limit}))
    if not expected:
        with pytest.raises(ConfigError, match=r"holds no valid point: .*(more|that a rank can have)"):
            compile_space(asked, memory)
        return
    space = compile_space(asked, memory)
    assert list(space.grid()) == expected
    assert space.valid_size == len(expected)
    assert len(space.random(1000, 0)) == len(expected)
    assert {frozenset(p.items()) for p in space.random(7, 0)} <= {frozenset(p.items()) for p in expected}


def test_every_refusal_has_its_reason() -> None:
    raw = {"model.depth": [1, 12], "model.patch_size": [1, 8], "model.num_heads": [4, 5]}
    space = compile_space(experiment(raw, parameters=5e5, gflops=0.2))
    assert space.refused == {
        "num_heads 5 does not divide embed_dim 64": 4,
        "has more than the 500,000 parameters of search.limits": 2,
        "takes more than the 0.2 GFLOP an image of search.limits": 1,
    }
    assert [dict(shape) for shape in space.shapes] == [
        {"model.depth": 1, "model.patch_size": 8, "model.num_heads": 4}
    ]  # fmt: skip


def test_a_range_of_widths_is_drawn_only_as_far_as_the_limit() -> None:
    asked = experiment({"model.mlp_ratio": {"uniform": [1, 16]}, "model.depth": [2, 60]}, parameters=150_000)
    space = compile_space(asked)
    points = space.random(30, 0)
    assert len(points) == 30
    assert {point["model.depth"] for point in points} == {2}
    assert max(count_parameters(BASE.with_values(dict(point)).model) for point in points) <= 150_000


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"flops": 1.0}, r"search\.limits\.flops: unknown key 'flops'"),
        ({"parameters": 0}, r"search\.limits\.parameters: .*greater than 0"),
        ({"gflops": True}, r"search\.limits\.gflops: should not be true"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused_by_the_config(limits: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        experiment({"model.depth": [1]}, **limits)
