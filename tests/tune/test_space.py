"""The space of a sweep: what is refused and why, and that every sampled point is valid, new and well spread."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.model_config import PosEncoding
from vitray.tune.dimensions import Choice, Range
from vitray.tune.space import Space, compile_space, points_of

ENCODINGS = list(get_args(PosEncoding))


def experiment(space: dict[str, Any], **search: Any) -> Experiment:
    return Experiment(
        data={"path": "/data"},
        model={
            "image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10,
            "embed_dim": 64, "num_heads": 4, "depth": 2,
        },
        search={"space": space, **search},
    )  # fmt: skip


def space_of(space: dict[str, Any]) -> Space:
    return compile_space(experiment(space))


def brute_force(space: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination that the config itself accepts."""
    found = []
    for values in itertools.product(*space.values()):
        point = dict(zip(space, values, strict=True))
        try:
            experiment({}).with_values(point)
        except ConfigError:
            continue
        found.append(point)
    return found


def frozen(points: list[Any]) -> set[frozenset[tuple[str, Any]]]:
    return {frozenset(point.items()) for point in points}


discrete_spaces = st.fixed_dictionaries(
    {"model.num_heads": st.lists(st.sampled_from([1, 2, 3, 4, 8, 12, 32]), min_size=1, unique=True)},
    optional={
        "model.patch_size": st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1, unique=True),
        "model.embed_dim": st.lists(st.sampled_from([24, 36, 64]), min_size=1, unique=True),
        "model.pos_encoding": st.lists(st.sampled_from(ENCODINGS), min_size=1, unique=True),
        "train.mixup": st.lists(st.sampled_from([0.0, 0.2, 0.4]), min_size=1, unique=True),
        "optim.betas": st.just([(0.9, 0.95), (0.9, 0.999)]),
    },
)


@settings(max_examples=40)
@given(discrete_spaces)
def test_the_grid_is_what_brute_force_finds(raw: dict[str, list[Any]]) -> None:
    expected = brute_force(raw)
    if not expected:
        with pytest.raises(ConfigError, match="holds no valid point"):
            space_of(raw)
        return
    space = space_of(raw)
    grid = list(space.grid())
    assert len(grid) == len(expected) == space.valid_size
    assert frozen(grid) == frozen(expected)
    assert space.size == math.prod(map(len, raw.values()))
    rest = math.prod(len(v) for k, v in raw.items() if not k.startswith("model."))
    assert (sum(space.refused.values()) + len(space.shapes)) * rest == space.size


@pytest.mark.slow
@settings(max_examples=50)
@given(discrete_spaces, st.integers(1, 60), st.integers(0, 5), st.booleans())
def test_random_points_are_valid_different_and_as_many_as_there_can_be(
    raw: dict[str, Any], count: int, seed: int, with_range: bool
) -> None:
    valid = brute_force(raw)
    assume(valid)
    space = space_of(raw | ({"optim.lr": {"log": [1e-4, 1e-2]}} if with_range else {}))
    points = space.random(count, seed)
    assert len(points) == (count if with_range else min(count, len(valid)))
    assert len(frozen(points)) == len(points)
    for point in points:
        experiment({}).with_values(dict(point))
        assert list(point) == list(space.dimensions) or set(point) == set(space.dimensions)
    assert points == space.random(count, seed)


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4), extra=st.integers(0, 12), seed=st.integers(0, 30),
    with_range=st.booleans(),
)  # fmt: skip
def test_with_as_many_points_as_values_every_value_is_tried(
    sizes: list[int], extra: int, seed: int, with_range: bool
) -> None:
    """Eight trials over six encodings try all six, whether the space is large or almost used up."""
    keys = ["model.depth", "train.seed", "train.accumulate", "optim.warmup_epochs"]
    raw: dict[str, Any] = {k: list(range(1, n + 1)) for k, n in zip(keys, sizes, strict=False)}
    count = max(sizes) + extra
    space = space_of(raw | ({"optim.lr": {"uniform": [0.1, 0.2]}} if with_range else {}))
    points = space.random(count, seed)
    for name, values in raw.items():
        times = Counter(point[name] for point in points)
        assert set(times) == set(values), name
        if with_range:  # nothing had to make room, so the spread is even
            assert max(times.values()) - min(times.values()) <= 1


@pytest.mark.parametrize("seed", range(10))
def test_invalid_combinations_do_not_cost_a_value_its_trial(seed: int) -> None:
    raw = {
        "model.patch_size": [1, 2, 3, 4], "model.num_heads": [1, 2, 3, 4, 8, 16, 32], "model.pos_encoding": ENCODINGS,
        "optim.lr": {"log": [1e-4, 1e-2]},
    }  # fmt: skip
    points = space_of(raw).random(12, seed)
    assert {p["model.patch_size"] for p in points} == {1, 2, 4}
    assert {p["model.num_heads"] for p in points} == {1, 2, 4, 8, 16, 32}
    assert {p["model.pos_encoding"] for p in points} == set(ENCODINGS)


def test_ranges_are_cut_into_as_many_parts_as_there_are_points() -> None:
    space = space_of({"optim.lr": {"log": [1e-4, 1e-2]}, "model.dropout": {"uniform": [0.1, 0.5]}})
    points = space.random(40, 0)
    parts = sorted(int(math.log(p["optim.lr"] / 1e-4) / math.log(100) * 40) for p in points)
    assert parts == list(range(40))
    assert sorted(int((p["model.dropout"] - 0.1) / 0.4 * 40) for p in points) == list(range(40))


def test_fewer_points_than_values_are_spread_over_them() -> None:
    space = space_of({"model.depth": {"int": [1, 100]}, "optim.lr": {"log": [1e-4, 1e-2]}})
    for seed in range(5):
        depths = sorted(p["model.depth"] for p in space.random(10, seed))
        assert [(d - 1) // 10 for d in depths] == list(range(10))


def test_other_seeds_give_other_points() -> None:
    space = space_of({"optim.lr": {"log": [1e-4, 1e-2]}, "model.depth": [1, 2, 3]})
    assert frozen(space.random(5, 0)).isdisjoint(frozen(space.random(5, 1)))


@pytest.mark.slow
def test_a_large_space_is_sampled_at_once() -> None:
    start = time.process_time()
    space = space_of(
        {"model.depth": {"int": [1, 40]}, "model.embed_dim": {"int": [1, 40]}, "model.num_heads": {"int": [1, 8]}}
    )
    assert len(space.random(500, 0)) == 500
    assert time.process_time() - start < 5


def test_reasons_for_refusal_are_counted() -> None:
    space = space_of({"model.patch_size": [2, 3, 5], "model.num_heads": [4, 7]})
    assert space.refused == {
        "num_heads 7 does not divide embed_dim 64": 3,
        "patch_size 3 does not divide image_size 8": 1,
        "patch_size 5 does not divide image_size 8": 1,
    }
    assert len(space.shapes) == 1


def test_dimensions_are_read_as_written() -> None:
    dimensions = space_of(
        {
            "model.depth": {"int": [2, 9, 3]}, "model.num_heads": [4, 4, 2], "optim.lr": {"log": [1e-3, 1]},
            "model.dropout": {"uniform": [0, 0.5]}, "data.augment.shift": {"int": [0, 2]}, "optim.betas": [[0.9, 0.95]],
        }
    ).dimensions  # fmt: skip
    assert dimensions == {
        "model.depth": Choice((2, 5, 8)), "model.num_heads": Choice((4, 2)), "optim.lr": Range(1e-3, 1.0, log=True),
        "model.dropout": Range(0.0, 0.5), "data.augment.shift": Choice((0, 1, 2)),
        "optim.betas": Choice(((0.9, 0.95),)),
    }  # fmt: skip


def test_a_grid_of_real_numbers_ends_where_it_is_said_to() -> None:
    dimensions = space_of(
        {"optim.weight_decay": {"quant": [0, 0.3, 0.1]}, "train.mixup": {"quant": [0.1, 0.45, 0.2]},
         "model.depth": {"quant": [2, 4, 1]}, "train.epochs": {"values": [3, 4]}},
    ).dimensions  # fmt: skip
    assert dimensions == {
        "optim.weight_decay": Choice((0.0, 0.1, 0.2, 0.3)), "train.mixup": Choice((0.1, 0.3)),
        "model.depth": Choice((2, 3, 4)), "train.epochs": Choice((3, 4)),
    }  # fmt: skip


def test_a_value_written_in_two_ways_is_one_value() -> None:
    space = space_of(
        {"model.depth": ["2", 2, 2.0, 3], "train.mixup": [0, 0.0, "0"], "optim.betas": [[0.9, 0.95], ["0.9", 0.95]]}
    )
    assert space.size == space.valid_size == 2
    points = list(space.grid())
    assert [type(point["model.depth"]) for point in points] == [int, int]
    assert {point["model.depth"] for point in points} == {2, 3}
    assert len(space.random(10, 0)) == 2


def test_points_follow_the_algorithm_and_the_number_of_trials() -> None:
    raw = {"model.depth": [1, 2, 3], "model.num_heads": [2, 4]}
    grid = experiment(raw, algorithm="grid", trials=4)
    assert points_of(grid, compile_space(grid)) == list(compile_space(grid).grid())[:4]
    few = experiment(raw, trials=4, seed=3)
    assert points_of(few, compile_space(few)) == compile_space(few).random(4, 3)
    many = experiment(raw, trials=100)
    assert len(points_of(many, compile_space(many))) == 6


@pytest.mark.parametrize(
    ("raw", "where", "says"),
    [
        ({}, "search.space", "no space to search"),
        ({"model.dept": [1]}, "search.space", "did you mean 'model.depth'"),
        ({"depth": [1]}, "search.space", "unknown key 'depth'"),
        ({"modle.depth": [1]}, "search.space", "model.depth"),
        ({"cluster.workers": [1, 2]}, "search.space", "unknown key"),
        ({"search.trials": [1, 2]}, "search.space", "unknown key"),
        ({"data.path": ["/a", "/b"]}, "search.space.data.path", "same for every trial"),
        ({"data.image_size": [8, 16]}, "search.space.data.image_size", "search model.image_size"),
        ({"train.split": ["train", "train+val"]}, "search.space.train.split", "val split"),
        ({"model.depth": []}, "search.space.model.depth", "no value"),
        ({"model.depth": 3}, "search.space.model.depth", "write a list"),
        ({"model.depth": "1, 2"}, "search.space.model.depth", "write a list"),
        ({"model.depth": None}, "search.space.model.depth", "write a list"),
        ({"model.depth": [{"a": 1}]}, "search.space.model.depth", "write a list"),
        ({"model.depth": {"int": [1, 2], "log": [1, 2]}}, "search.space.model.depth", "write a list"),
        ({"model.depth": {"int": [3, 1]}}, "search.space.model.depth", "wrong way round"),
        ({"model.depth": {"int": [1, 9, 0]}}, "search.space.model.depth", "write a list"),
        ({"model.depth": {"int": [1.5, 3]}}, "search.space.model.depth", "write a list"),
        ({"model.depth": {"int": [1, 10**12]}}, "search.space.model.depth", "take larger steps"),
        ({"optim.lr": {"quant": [1, 2]}}, "search.space.optim.lr", "write a list"),
        ({"optim.lr": {"quant": [2, 1, 0.1]}}, "search.space.optim.lr", "wrong way round"),
        ({"optim.lr": {"quant": [1, float("nan"), 0.1]}}, "search.space.optim.lr", "not finite"),
        ({"optim.lr": {"quant": [1, 2, 1e-300]}}, "search.space.optim.lr", "take larger steps"),
        ({"optim.lr": {"quant": [1, 2, 1e-4, 1]}}, "search.space.optim.lr", "write a list"),
        ({"optim.lr": {"quant": [0, 1, 0.5]}}, "search.space.optim.lr", "greater than 0"),
        ({"model.depth": {"quant": [1, 2, 0.5]}}, "search.space.model.depth", "1.5"),
        ({"model.depth": [1, True]}, "search.space.model.depth", "should not be true"),
        ({"optim.lr": {"log": [0, 1]}}, "search.space.optim.lr", "no logarithm at 0"),
        ({"optim.lr": {"log": [1, 0.1]}}, "search.space.optim.lr", "low above 0 and below high"),
        ({"optim.lr": {"uniform": [1]}}, "search.space.optim.lr", "write a list"),
        ({"optim.lr": {"uniform": ["a", "b"]}}, "search.space.optim.lr", "write a list"),
        ({"optim.lr": {"uniform": [float("nan"), 1]}}, "search.space.optim.lr", "not finite"),
        ({"optim.lr": {"log": [1, 10**320]}}, "search.space.optim.lr", "not finite"),
        ({"model.depth": {"int": [1, 10**320]}}, "search.space.model.depth", "not finite"),
        ({"data.cache": ["auto", "none"]}, "search.space.data.cache", "it changes no result"),
        (
            {
                "model.pos_encoding": ["none", "learned"],
                "model.registers": {"values": [0, 4], "when": "model.pos_encoding == relative"},
            },
            "search.space.model.registers.when",
            "never holds: model.pos_encoding is only searched over none, learned",
        ),
        ({"optim.lr": {"normal": [0, 1]}}, "search.space.optim.lr", "write a list"),
        ({"optim.lr": {"uniform": [-1, 1]}}, "search.space.optim.lr", "greater than 0"),
        ({"optim.lr": {"uniform": [1, float("inf")]}}, "search.space.optim.lr", "finite"),
        ({"optim.lr": [0.1, "fast"]}, "search.space.optim.lr", "fast"),
        ({"train.epochs": [3, 0]}, "search.space.train.epochs", "greater than 0"),
        ({"model.depth": {"uniform": [2, 6]}}, "search.space.model.depth", "integer"),
        ({"train.epochs": {"log": [1, 64]}}, "search.space.train.epochs", "integer"),
        ({"model.patch_size": [3, 5]}, "search.space", "no valid point: patch_size"),
        ({"model.pos_encoding": ["learned", "rope"]}, "search.space.model.pos_encoding", "'rope_2d', got 'rope'"),
        ({f"model.{k}": {"int": [1, 60]} for k in ("depth", "embed_dim", "registers")}, "search.space", "216,000 comb"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_meant_is_one_error(raw: dict[str, Any], where: str, says: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        space_of(raw)
    assert caught.value.where == where
    assert says in str(caught.value)
    assert time.process_time() - start < 2


def test_a_range_has_no_grid() -> None:
    search = experiment({"optim.lr": {"log": [0.1, 1]}}, algorithm="grid")
    with pytest.raises(ConfigError, match=r"search\.space\.optim\.lr: is a range.*\n.*search\.algorithm=random"):
        points_of(search, compile_space(search))


def test_without_a_search_there_is_nothing_to_compile() -> None:
    with pytest.raises(ConfigError, match="no space to search"):
        compile_space(Experiment(data={"path": "/data"}))


GIB = 2**30


def large(**space: Any) -> Experiment:
    """ViT-S at 224 pixels: a step of 64 images takes at least 1.9 GiB, of 512 at least 12.4 GiB in bfloat16."""
    return Experiment(
        data={"path": "nowhere"},
        model={"image_size": 224, "in_chans": 3, "num_classes": 10, "embed_dim": 384, "num_heads": 6},
        train={"global_batch": 64, "precision": "bfloat16"},
        search={"space": {key.replace("__", "."): value for key, value in space.items()}, "trials": 40},
    )


def test_architectures_that_cannot_fit_are_no_part_of_it() -> None:
    space = compile_space(large(model__embed_dim=[384, 6144]), 4 * GIB)
    assert [shape["model.embed_dim"] for shape in space.shapes] == [384]
    assert space.refused == {"needs more memory than the 4.0 GiB that a rank can have": 1}
    assert len(compile_space(large(model__embed_dim=[384, 6144])).shapes) == 2, "nothing is known of the memory"


@pytest.mark.parametrize("algorithm", ["grid", "random"])
def test_batches_that_cannot_fit_are_not_drawn_and_are_no_architectures(algorithm: str) -> None:
    experiment = large(train__global_batch=["64", 128, 1024], model__depth=[6, 12], train__seed=[0, 1])
    experiment = experiment.with_values({"search.algorithm": algorithm})
    assert experiment.search is not None
    space = compile_space(experiment, 6 * GIB)
    assert len(space.shapes) == 2
    points = points_of(experiment, space)
    assert {str(point["train.global_batch"]) for point in points} == {"64", "128"}
    assert len(points) == 8
    assert len(points_of(experiment, compile_space(experiment, 1000 * GIB))) == 12


def test_with_a_range_beside_it_what_fits_is_drawn_too() -> None:
    experiment = large(train__global_batch=[64, 4096], optim__lr={"log": [1e-4, 1e-2]})
    points = points_of(experiment, compile_space(experiment, 6 * GIB))
    assert len(points) == 40
    assert {point["train.global_batch"] for point in points} == {64}


def test_many_batch_sizes_are_not_many_architectures() -> None:
    space = compile_space(large(train__global_batch={"int": [16, 1024]}, model__depth=[2, 4]), 64 * GIB)
    assert len(space.shapes) == 2
