"""Keys that are searched only where another key has certain values: no point twice, none missing, evenly drawn."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.tune.space import Space, compile_space

BASE = {
    "model.image_size": 8, "model.patch_size": 2, "model.in_chans": 1, "model.num_classes": 10, "model.embed_dim": 64,
    "model.num_heads": 4, "model.depth": 2,
}  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "model.num_heads": [1, 3, 4], "model.pos_encoding": ["learned", "rope_2d"], "model.patch_size": [2, 3],
    "train.mixup": [0.0, 0.2], "train.cutmix": [0.0, 0.5, 1.0], "optim.layer_decay": [0.7, 1.0],
}  # fmt: skip


def experiment(space: dict[str, Any], **values: Any) -> Experiment:
    made = Experiment(data={"path": "/data"}).with_values(BASE | {"search.space": space})
    return made.with_values({key.replace("__", "."): value for key, value in values.items()})


def space_of(space: dict[str, Any], **values: Any) -> Space:
    return compile_space(experiment(space, **values))


@st.composite
def conditional_spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Some keys, each with a condition on any key that comes before it in a random order, or on the config."""
    keys = draw(st.permutations(sorted(VALUES)))[: draw(st.integers(1, 5))]
    space: dict[str, Any] = {}
    for place, name in enumerate(keys):
        space[name] = {"values": VALUES[name]}
        other = draw(st.sampled_from([None, *keys[:place], *sorted(set(VALUES) - set(keys))]))
        if other is not None:
            value = draw(st.sampled_from(VALUES[other]))
            relation = draw(st.sampled_from(["==", "!=", "in"]))
            space[name]["when"] = f"{other} {relation} {[value] if relation == 'in' else value}"
    return {name: space[name] for name in draw(st.permutations(list(space)))}


def brute_force(space: dict[str, Any]) -> set[frozenset[tuple[str, Any]]]:
    """Every combination without the keys whose conditions do not hold, where the config accepts it."""
    base, found = experiment({}).flat(), set()
    for values in itertools.product(*(raw["values"] for raw in space.values())):
        written = dict(zip(space, values, strict=True))

        def holds(name: str, written: dict[str, Any] = written) -> bool:
            if "when" not in space[name]:
                return True
            other, relation, value = space[name]["when"].split(" ", 2)
            has = written[other] if other in space and holds(other, written) else base[other]
            return (str(has) == value.strip("[]'")) != (relation == "!=")

        point = {name: value for name, value in written.items() if holds(name)}
        try:
            experiment({}).with_values(point)
        except ConfigError:
            continue
        found.add(frozenset(point.items()))
    return found


@settings(max_examples=40)
@given(conditional_spaces(), st.integers(1, 30), st.integers(0, 3))
def test_grid_size_and_random_points_are_what_brute_force_finds(raw: dict[str, Any], count: int, seed: int) -> None:
    expected = brute_force(raw)
    if expected <= {frozenset[tuple[str, Any]]()}:
        with pytest.raises(ConfigError, match=r"holds no valid point|searches nothing"):
            space_of(raw)
        return
    space = space_of(raw)
    grid = [frozenset(point.items()) for point in space.grid()]
    assert len(grid) == len(set(grid)) == space.valid_size
    assert set(grid) == expected
    points = space.random(count, seed)
    drawn = {frozenset(point.items()) for point in points}
    assert len(points) == len(drawn) == min(count, len(expected))
    assert drawn <= expected
    assert points == space.random(count, seed)


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 20))
def test_every_value_is_drawn_as_often_as_any_other_where_it_has_a_meaning(count: int, seed: int) -> None:
    space = space_of(
        {
            "train.cutmix": {"values": [0.2, 0.5, 1.0], "when": "train.mixup != 0"},
            "train.mixup": [0.0, 0.2],
            "optim.lr": {"log": [1e-4, 1e-2]},
            "optim.weight_decay": {"uniform": [0, 0.1], "when": "train.mixup == 0.0"},
        }
    )
    points = space.random(count, seed)
    assert len(points) == count
    mixed = [p for p in points if p["train.mixup"]]
    plain = [p for p in points if not p["train.mixup"]]
    assert abs(len(mixed) - len(plain)) <= 1
    assert all("train.cutmix" in p and "optim.weight_decay" not in p for p in mixed)
    assert all("train.cutmix" not in p and "optim.weight_decay" in p for p in plain)
    times = Counter(p["train.cutmix"] for p in mixed)
    assert max(times.values(), default=0) - min((times[v] for v in (0.2, 0.5, 1.0)), default=0) <= 1
    parts = sorted(int(p["optim.weight_decay"] / 0.1 * len(plain)) for p in plain)
    assert parts == list(range(len(plain)))


def test_a_key_without_meaning_keeps_the_configs_value() -> None:
    raw = {"train.mixup": [0.0, 0.2], "train.cutmix": {"values": [0.5, 1.0], "when": "train.mixup != 0"}}
    made = experiment(raw, train__cutmix=0.25)
    points = [dict(point) for point in compile_space(made).grid()]
    assert points == [
        {"train.mixup": 0.0}, {"train.mixup": 0.2, "train.cutmix": 0.5}, {"train.mixup": 0.2, "train.cutmix": 1.0},
    ]  # fmt: skip
    assert [made.with_values(point).train.cutmix for point in points] == [0.25, 0.5, 1.0]


def test_what_the_config_decides_is_decided_at_once() -> None:
    raw = {"model.depth": [1, 2], "train.cutmix": {"quant": [0.5, 1, 0.5], "when": "train.mixup == 0.2"}}
    assert list(space_of(raw).dimensions) == ["model.depth"]
    assert space_of(raw, train__mixup=0.2).valid_size == 4
    assert space_of(raw | {"train.mixup": [0, 0.2]}).valid_size == 6


def test_few_points_with_a_range_leave_room_for_all_that_are_asked() -> None:
    space = space_of({"model.depth": {"int": [1, 60]}, "optim.lr": {"log": [0.1, 1], "when": "model.depth == 7"}})
    assert space.size == space.valid_size == float("inf")
    points = space.random(80, 0)
    assert len({frozenset(point.items()) for point in points}) == 80
    assert {point["model.depth"] for point in points} == set(range(1, 61))
    with pytest.raises(ConfigError, match=r"optim\.lr: is a range"):
        list(space.grid())


def test_a_range_that_is_never_part_of_a_valid_point_has_no_bearing() -> None:
    space = space_of({"model.num_heads": [3, 4], "optim.lr": {"log": [0.1, 1], "when": "model.num_heads == 3"}})
    assert [dict(point) for point in space.grid()] == [{"model.num_heads": 4}]
    assert len(space.random(5, 0)) == space.valid_size == 1


def test_how_many_blocks_are_frozen_goes_with_how_many_there_are() -> None:
    raw = {"train.freeze": ["none", "first_2", "first_6"], "model.depth": [2, 4, 8]}
    space = space_of(raw, train__init_from="/weights")
    assert space.valid_size == len(list(space.grid())) == 7
    assert sum(space.refused.values()) == 2


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ("train.mixup", "is not a condition"),
        ("train.mixup ==", "is not a condition"),
        ("train.mixup = 0.2", "write KEY == VALUE"),
        ("train.mixup in 0.2", "is not a condition"),
        ("train.mixup in []", "is not a condition"),
        ("train.mixup == [", "is not a YAML value"),
        (True, "is not a condition: True"),
        (None, "is not a condition: None"),
        ("train.mixp == 0.2", "did you mean 'train.mixup'"),
        ("mixup == 0.2", "unknown key 'mixup'"),
        ("search.trials == 4", "unknown key"),
        ("train.mixup == fast", "train.mixup input should be a valid number"),
        ("train.mixup == true", "should not be true"),
        ("model.pos_encoding in [learned, rope]", "got 'rope'"),
        ("optim.lr == 0.1", "names optim.lr, which is searched as a range"),
        ("train.cutmix == 0.5", "waits for itself: train.cutmix -> train.cutmix"),
        ("model.depth == 2", "waits for itself: train.cutmix -> model.depth -> train.cutmix"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_one_error(when: Any, says: str) -> None:
    raw = {
        "optim.lr": {"log": [0.01, 0.1]},
        "train.cutmix": {"values": [0.5, 1.0], "when": when},
        "model.depth": {"values": [1, 2], "when": "train.cutmix == 0.5"},
    }
    with pytest.raises(ConfigError) as caught:
        space_of(raw)
    assert caught.value.where == "search.space.train.cutmix.when"
    assert caught.value.remedy
    assert says in str(caught.value)


def test_a_space_in_which_no_condition_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match="searches nothing"):
        space_of({"train.cutmix": {"values": [0.5], "when": "train.mixup == 0.2"}})
