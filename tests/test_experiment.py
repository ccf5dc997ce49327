"""An experiment's description: what it refuses and what it then advises, what it is equal to, what data fill in."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitray.errors import ConfigError
from vitray.experiment import (
    AugmentConfig,
    ClusterConfig,
    Experiment,
    ModelConfig,
    SearchConfig,
    TrackingConfig,
    TrainConfig,
)
from vitray.model_config import PosEncoding, divisors

ENCODINGS = get_args(PosEncoding)
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def experiment(**sections: Any) -> Experiment:
    return Experiment(**{"data": {"path": "/data"}} | sections)


def advised(error: ConfigError, key: str) -> list[int]:
    """The values of ``key`` that an error's text offers, after its last semicolon."""
    _, _, advice = str(error).rpartition(";")
    assert key in advice or "nearest that do" in advice, error
    return [int(v) for v in re.findall(r"\d+", advice)]


@given(st.integers(1, 10_000))
def test_divisors_are_all_of_them_in_order(n: int) -> None:
    assert divisors(n) == [d for d in range(1, n + 1) if n % d == 0]


@given(st.integers(1, 200), st.integers(1, 24), st.sampled_from(ENCODINGS))
def test_every_width_or_number_of_heads_that_an_error_offers_is_valid(width: int, heads: int, encoding: str) -> None:
    shape = {"embed_dim": width, "num_heads": heads, "pos_encoding": encoding}
    fits = (
        width % heads == 0
        and not (encoding == "rope_2d" and width // heads % 4)
        and not (encoding == "sinusoidal_2d" and width % 4)
        and not (encoding == "sinusoidal" and width % 2)
    )
    try:
        ModelConfig(**shape)
    except ConfigError as error:
        assert not fits
        key = "embed_dim" if "embed_dim that fit" in str(error) else "num_heads"
        values = advised(error, key)
        assert values
        if key == "num_heads" and encoding in ("sinusoidal", "sinusoidal_2d"):
            return  # heads may fit while the width itself does not; that has an error of its own
        if key == "num_heads" and encoding == "rope_2d" and width % 4:
            return
        for value in values:
            ModelConfig(**shape | {key: value})
    else:
        assert fits


@given(st.integers(1, 260), st.integers(1, 260), st.integers(1, 80))
def test_every_patch_size_that_an_error_offers_divides_the_image(height: int, width: int, patch: int) -> None:
    try:
        made = ModelConfig(image_size=(height, width), patch_size=patch)
    except ConfigError as error:
        assert height % patch or width % patch
        values = advised(error, "patch_size")
        assert values
        for value in values:
            ModelConfig(image_size=(height, width), patch_size=value)
        assert not any(
            min(abs(v - patch) for v in values) > abs(d - patch) for d in divisors(height) if width % d == 0
        ), "a nearer one was not offered"
    else:
        assert made.grid == (height // patch, width // patch)


def test_advice_on_a_huge_number_comes_at_once() -> None:
    start = time.process_time()
    with pytest.raises(ConfigError, match="less than or equal to 65536"):
        ModelConfig(embed_dim=10**18 + 3, num_heads=7)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("values", "where", "says"),
    [
        ({"model": {"depth": 0}}, "model.depth", "greater than 0"),
        ({"model": {"depth": "six"}}, "model.depth", "'six'"),
        ({"model": {"depth": True}}, "model.depth", "true"),
        ({"model": {"depth": 2.5}}, "model.depth", "integer"),
        ({"model": {"pos_encoding": "rope"}}, "model.pos_encoding", "'rope_2d'"),
        ({"model": {"pool": "max"}}, "model.pool", "'cls' or 'mean'"),
        ({"model": {"dropout": 1.0}}, "model.dropout", "less than 1"),
        ({"model": {"image_size": [8, 0]}}, "model.image_size", "greater than 0"),
        ({"model": {"image_size": "big"}}, "model.image_size", "'big'"),
        ({"model": {"depht": 3}}, "model.depht", "did you mean 'depth'?"),
        ({"model": 6}, "model", "6"),
        ({"modle": {}}, "modle", "did you mean 'model'?"),
        ({"data": {}}, "data.path", "required"),
        ({"data": {"path": "x", "cache": "all"}}, "data.cache", "'decoded'"),
        ({"data": {"path": "x", "augment": {"crop_scale": [0.5, 0.1]}}}, "data.augment", "low <= high"),
        ({"data": {"path": "x", "augment": {"crop_ratio": [0, 1]}}}, "data.augment", "0 < low"),
        ({"data": {"path": "x", "augment": {"shfit": 1}}}, "data.augment.shfit", "did you mean 'shift'?"),
        ({"train": {"epochs": -1}}, "train.epochs", "-1"),
        ({"train": {"split": "test"}}, "train.split", "'train+val'"),
        ({"optim": {"lr": float("nan")}}, "optim.lr", "finite"),
        ({"optim": {"lr": float("inf")}}, "optim.lr", "finite"),
        ({"optim": {"lr": False}}, "optim.lr", "false"),
        ({"optim": {"betas": [0.9, 1.0]}}, "optim.betas", "less than 1"),
        ({"cluster": {"workers": 0}}, "cluster.workers", "greater than 0"),
        ({"cluster": {"workers": [4, 2]}}, "cluster", "min <= max"),
        ({"cluster": {"use_gpu": "maybe"}}, "cluster.use_gpu", "maybe"),
        ({"search": {"space": {}, "metric": "val/acuracy"}}, "search.metric", "'val/accuracy'"),
        ({"search": {"space": {}, "mode": "best"}}, "search.mode", "'max' or 'min'"),
        ({"search": {}}, "search.space", "required"),
        ({"name": "../elsewhere"}, "name", "pattern"),
    ],
)
def test_what_is_wrong_is_said_in_one_error_with_its_place(values: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(**values)
    assert caught.value.where == where
    assert says in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "pydantic" not in str(caught.value)


def test_further_errors_are_mentioned() -> None:
    with pytest.raises(ConfigError, match=r"also wrong: optim\.lr, train\.epochs"):
        experiment(model={"depth": 0}, optim={"lr": 0}, train={"epochs": 0})


def test_nothing_can_be_changed() -> None:
    one = experiment()
    for target, key in ((one, "name"), (one.model, "depth"), (one.data.augment, "shift")):
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(target, key, 1)


def test_equal_experiments_have_equal_hashes_and_identities() -> None:
    one = experiment(search={"space": {"model.depth": [1, 2], "optim.lr": [0.1]}}, cluster={"workers": [1, 2]})
    two = experiment(search={"space": {"optim.lr": [0.1], "model.depth": [1, 2]}}, cluster={"workers": (1, 2)})
    assert one == two
    assert hash(one) == hash(two)
    assert one.identity == two.identity
    assert len({one, two, one.with_values({"model.depth": 3})}) == 2


DECIDES = {
    "model.depth": 3, "model.pos_encoding": "none", "model.dropout": 0.1, "data.path": "/other",
    "data.image_size": 64, "data.shuffle_window": 2, "data.augment.shift": 1, "data.augment": AugmentConfig(flip=True),
    "train.epochs": 2, "train.global_batch": 64, "train.seed": 1, "train.split": "train+val", "train.mixup": 0.2,
    "train.ema": 0.9, "train.accumulate": 2, "train.precision": "float32", "train.init_from": "/weights",
    "optim.lr": 0.5, "optim.betas": (0.9, 0.95), "cluster.workers": 2,
}  # fmt: skip
DECIDES_NOTHING = {
    "name": "other", "data.cache": "none", "data.cache_bytes": 0, "data.verify": "full",
    "train.checkpoint_steps": 7, "train.keep_last": 5, "train.keep_best": 3, "train.work_at_risk": 30.0,
    "train.checkpoints": "s3://b/c", "cluster.max_restarts": 0, "cluster.hang_timeout_s": None,
    "tracking.experiment": "other", "tracking.model": "other", "search": {"space": {"model.depth": [1]}},
}  # fmt: skip


@pytest.mark.parametrize("key", DECIDES)
def test_identity_changes_with_what_decides_the_result(key: str) -> None:
    assert experiment().with_values({key: DECIDES[key]}).identity != experiment().identity


@pytest.mark.parametrize("key", DECIDES_NOTHING)
def test_identity_stays_with_what_does_not(key: str) -> None:
    changed = experiment().with_values({key: DECIDES_NOTHING[key]})
    assert changed != experiment()
    assert changed.identity == experiment().identity


def test_a_value_written_in_two_ways_is_one_identity() -> None:
    one = experiment(optim={"lr": 1}, model={"image_size": (32, 32), "depth": 6})
    two = experiment(optim={"lr": 1.0}, model={"image_size": [32, 32], "depth": 6.0})
    assert one.identity == two.identity


def test_with_values_validates_anew_and_leaves_the_original() -> None:
    base = experiment()
    assert base.with_values({"model.depth": 3, "data.augment.shift": 2}).data.augment.shift == 2
    assert base == experiment()
    with pytest.raises(ConfigError, match="does not divide"):
        base.with_values({"model.num_heads": 5})
    with pytest.raises(ConfigError, match=r"did you mean 'model\.depth'"):
        base.with_values({"model.dept": 5})


def test_the_data_fill_in_what_is_unset() -> None:
    resolved = experiment(model={"patch_size": 4}).resolve(image_size=(8, 12), in_chans=1, num_classes=10)
    assert (resolved.model.size, resolved.model.in_chans, resolved.model.num_classes) == ((8, 12), 1, 10)
    assert resolved.model.grid == (2, 3)
    assert resolved.resolve(image_size=(8, 12), in_chans=1, num_classes=10) == resolved


def test_a_configured_size_goes_before_the_size_of_the_data() -> None:
    wanted = experiment(data={"path": "x", "image_size": 32})
    assert wanted.resolve(image_size=(8, 8), in_chans=3, num_classes=2).model.size == (32, 32)
    assert wanted.resolve(image_size=None, in_chans=3, num_classes=2).model.size == (32, 32)
    same = experiment(data={"path": "x", "image_size": 32}, model={"image_size": (32, 32)})
    assert same.resolve(image_size=None, in_chans=3, num_classes=2).model.size == (32, 32)


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({}, "data.image_size"),
        ({"model": {"image_size": 64}, "data": {"path": "x", "image_size": 32}}, "model.image_size"),
        ({"model": {"image_size": 64, "in_chans": 1}}, "model.in_chans"),
        ({"model": {"image_size": 64, "num_classes": 5}}, "model.num_classes"),
    ],
)
def test_a_conflict_with_the_data_is_an_error(sections: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(**sections).resolve(image_size=None, in_chans=3, num_classes=2)
    assert caught.value.where == where
    assert caught.value.remedy


def test_a_patch_that_does_not_divide_is_found_when_the_data_are_known() -> None:
    with pytest.raises(ConfigError, match="nearest that do: 2 or 4"):
        experiment(model={"patch_size": 3}).resolve(image_size=(8, 8), in_chans=1, num_classes=10)


def test_flat_lists_every_key_but_the_search() -> None:
    flat = experiment(name="run", search={"space": {"model.depth": [1]}}).flat()
    assert flat["model.depth"] == 12
    assert flat["data.augment.shift"] == 0
    assert flat["name"] == "run"
    assert not any(key.startswith("search") for key in flat)
    assert not any(isinstance(value, dict) for value in flat.values())


def test_presets_are_named_and_can_be_changed() -> None:
    small = ModelConfig.preset("vit_small", patch_size=8, pool="mean")
    assert (small.embed_dim, small.depth, small.num_heads, small.patch_size, small.pool) == (384, 12, 6, 8, "mean")
    with pytest.raises(ConfigError, match="did you mean 'vit_small'"):
        ModelConfig.preset("vit_smal")


@pytest.mark.parametrize(
    ("given_values", "mode"),
    [
        ({}, "max"),
        ({"metric": "val/loss"}, "min"),
        ({"metric": "train/loss"}, "min"),
        ({"metric": "val/loss", "mode": "min"}, "min"),
    ],
)
def test_the_direction_of_a_search_follows_from_its_metric(given_values: dict[str, Any], mode: str) -> None:
    assert SearchConfig(space={}, **given_values).mode == mode


@pytest.mark.parametrize(("metric", "mode"), [("val/loss", "max"), ("val/accuracy", "min")])
def test_nobody_looks_for_the_worst(metric: str, mode: str) -> None:
    with pytest.raises(ConfigError, match=f"would look for the worst {metric}; leave search.mode unset"):
        SearchConfig(space={}, metric=metric, mode=mode)


def test_a_model_is_named_as_its_experiment_unless_told() -> None:
    assert TrackingConfig(experiment="digits").model_name == "digits"
    assert TrackingConfig(experiment="digits", model="other").model_name == "other"


def test_a_section_by_itself_says_what_is_wrong_too() -> None:
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        TrainConfig(epoch=3)
    assert ClusterConfig(workers=(2, 4)).workers == (2, 4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_of_the_project_loads(path: Path) -> None:
    loaded = Experiment.load(path)
    assert Experiment(**loaded.model_dump()) == loaded
    assert Experiment(**loaded.model_dump(mode="json")) == loaded
