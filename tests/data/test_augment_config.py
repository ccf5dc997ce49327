"""The augmentation sections: what is refused and how it is said, and that overrides reach every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitray.errors import ConfigError
from vitray.experiment import AugmentConfig, Experiment


@pytest.mark.parametrize(
    ("section", "where", "what"),
    [
        ({"color_jitter": {"hue": 0.6}}, "color_jitter.hue", "less than or equal to 0.5"),
        ({"color_jitter": {"brightness": -0.1}}, "color_jitter.brightness", "greater than or equal to 0"),
        ({"color_jitter": {"hue": True}}, "color_jitter.hue", "should not be true"),
        ({"color_jitter": {"saturaton": 0.1}}, "color_jitter.saturaton", "did you mean 'saturation'"),
        ({"color_jitter": 0.4}, "color_jitter", "dictionary"),
        ({"erasing": {"probability": 1.1}}, "erasing.probability", "less than or equal to 1"),
        ({"erasing": {"scale": [0.5, 0.2]}}, "erasing", "scale must satisfy 0 < low <= high <= 1"),
        ({"erasing": {"scale": [0.5, 1.2]}}, "erasing", "scale must satisfy 0 < low <= high <= 1"),
        ({"erasing": {"ratio": [0, 1]}}, "erasing", "ratio must satisfy 0 < low <= high"),
        ({"erasing": {"value": 1}}, "erasing.value", "'random'"),
        ({"erasing": {"probabilty": 0.2}}, "erasing.probabilty", "did you mean 'probability'"),
        ({"randaugment": {"num_ops": 11}}, "randaugment.num_ops", "less than or equal to 10"),
        ({"randaugment": {"num_ops": 0}}, "randaugment.num_ops", "greater than or equal to 1"),
        ({"randaugment": {"magnitude": 31}}, "randaugment.magnitude", "less than or equal to 30"),
        ({"policy": "autoaugment"}, "policy", "'randaugment' or 'trivialaugment'"),
        ({"colour_jitter": {"hue": 0.1}}, "colour_jitter", "did you mean 'color_jitter'"),
        ({"crop_scale": [0.0, 1.0]}, None, "crop_scale must satisfy 0 < low <= high <= 1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(section: dict[str, Any], where: str | None, what: str) -> None:
    with pytest.raises(ConfigError) as refused:
        AugmentConfig(**section)
    assert refused.value.where == where
    assert what in str(refused.value)


def load(folder: Path, text: str, *overrides: str) -> Experiment:
    (folder / "config.yaml").write_text(text)
    return Experiment.load(folder / "config.yaml", overrides)


def test_overrides_reach_the_nested_sections(tmp_path: Path) -> None:
    made = load(
        tmp_path, "data: {path: /d, augment: {policy: none, color_jitter: {contrast: 0.3}}}",
        "data.augment.color_jitter.hue=0.1", "data.augment.erasing.probability=0.25",
        "data.augment.erasing.value=random", "data.augment.policy=randaugment", "data.augment.randaugment.magnitude=7",
    ).data.augment  # fmt: skip
    assert (made.color_jitter.contrast, made.color_jitter.hue) == (0.3, 0.1)
    assert (made.erasing.probability, made.erasing.value, made.policy) == (0.25, "random", "randaugment")
    assert (made.randaugment.num_ops, made.randaugment.magnitude) == (2, 7)


def test_a_misspelt_nested_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'data\.augment\.color_jitter\.hue'"):
        load(tmp_path, "data: {path: /d}", "data.augment.color_jitter.hew=0.1")
    with pytest.raises(ConfigError, match="did you mean 'magnitude'"):
        load(tmp_path, "data: {path: /d, augment: {randaugment: {magnitud: 3}}}")


def test_every_key_counts_for_the_identity() -> None:
    base = Experiment(data={"path": "/d"})
    changes: dict[str, Any] = {
        "policy": "trivialaugment",
        "randaugment.num_ops": 3,
        "randaugment.magnitude": 5,
        "color_jitter.brightness": 0.1,
        "color_jitter.contrast": 0.1,
        "color_jitter.saturation": 0.1,
        "color_jitter.hue": 0.1,
        "erasing.probability": 0.1,
        "erasing.scale": (0.1, 0.2),
        "erasing.ratio": (1, 2),
        "erasing.value": "random",
    }
    made = {base.with_values({f"data.augment.{key}": value}).identity for key, value in changes.items()}
    assert len(made | {base.identity}) == len(changes) + 1
    flat = base.with_values({"data.augment.color_jitter.hue": 0.2}).flat()
    assert flat["data.augment.color_jitter.hue"] == 0.2
