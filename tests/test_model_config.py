"""A model that can be described can be built and run; one that cannot is refused with what would do."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.errors import ConfigError
from vitray.model_config import COMPUTED, LARGEST, MOST, PRESETS, ModelConfig, PosEncoding
from vitray.models import VisionTransformer

SMALL = st.integers(1, 16)
SHAPES = st.fixed_dictionaries(
    {
        "image_size": st.integers(1, 12) | st.tuples(st.integers(1, 12), st.integers(1, 12)),
        "patch_size": st.integers(1, 13),
        "in_chans": st.integers(1, 4),
        "num_classes": st.integers(1, 5),
        "embed_dim": st.integers(1, 40),
        "depth": st.integers(1, 2),
        "num_heads": st.integers(1, 12),
        "mlp_ratio": st.floats(0.001, 5),
        "pos_encoding": st.sampled_from(get_args(PosEncoding)),
        "attention": st.sampled_from(["full", "axial"]),
        "pool": st.sampled_from(["cls", "mean"]),
        "patch_embed": st.sampled_from(["conv", "linear"]),
        "registers": st.integers(0, 3),
        "layer_scale": st.none() | st.floats(1e-6, 1),
        "qk_norm": st.booleans(),
    }
)


ADVICE = (
    ("embed_dim", r"embed_dim that fit: (.*)$"),
    ("num_heads", r"^num_heads .* nearest that do: (.*)$"),
    ("num_heads", r"num_heads that fit: (.*)$"),
    ("patch_size", r"^patch_size .* nearest that do: (.*)$"),
    ("mlp_ratio", r"^mlp_ratio .* the smallest that does: (.*)$"),
)


def advice(error: ConfigError) -> tuple[str, list[float]]:
    """The key that an error's text offers values for, and the values."""
    key, found = next((key, found) for key, text in ADVICE if (found := re.search(text, str(error))))
    values = [float(value) for value in re.split(" or |, ", found[1])]
    return key, values if key == "mlp_ratio" else [int(value) for value in values]


def refusal(shape: dict[str, Any]) -> ConfigError | None:
    try:
        ModelConfig(**shape)
    except ConfigError as error:
        return error
    return None


def mended(shape: dict[str, Any]) -> ModelConfig:
    """The config; where it is refused, the one that taking each error's first offer leads to."""
    wrong: set[str] = set()
    while error := refusal(shape):
        key, values = advice(error)
        assert key not in wrong, f"what was offered is refused again: {error}"
        wrong.add(key)
        for value in values:
            other = refusal(shape | {key: value})
            assert other is None or advice(other)[0] not in wrong, f"{key}={value} was offered, then: {other}"
        shape = shape | {key: values[0]}
    return ModelConfig(**shape)


@pytest.mark.slow
@settings(max_examples=60)
@given(SHAPES)
def test_what_is_refused_is_mended_by_its_advice_and_what_is_accepted_runs(shape: dict[str, Any]) -> None:
    config = mended(shape)
    model = VisionTransformer(config).eval()
    with torch.inference_mode():
        logits = model(torch.randn(2, shape["in_chans"], *config.size))
    assert logits.shape == (2, shape["num_classes"])
    assert logits.isfinite().all()


ANY = st.integers(-(2**70), 2**70) | st.integers(-2, 2 * LARGEST) | st.integers(1, 64)
ABSURD = st.fixed_dictionaries(
    {"in_chans": ANY, "num_classes": ANY, "image_size": ANY | st.tuples(ANY, ANY)},
    optional={
        **dict.fromkeys(("patch_size", "embed_dim", "num_heads", "registers"), ANY),
        "depth": st.integers(-1, 3) | st.integers(MOST + 1, 2**70),  # many blocks are possible, but not quick
        "mlp_ratio": st.floats(),
        "layer_scale": st.floats(),
        "pos_encoding": st.sampled_from(get_args(PosEncoding)),
    },
)


@pytest.mark.slow
@settings(max_examples=300)
@given(ABSURD)
def test_absurd_numbers_are_refused_or_torch_can_name_the_model(shape: dict[str, Any]) -> None:
    error = refusal(shape)
    if error is None:
        with torch.device("meta"):
            VisionTransformer(ModelConfig(**shape))
    else:
        assert error.where in {None, *shape}, "not what was given is blamed"


def largest(**changes: Any) -> ModelConfig:
    """Everything as large as it may be; the depth is taken as read."""
    shape = dict.fromkeys(("image_size", "in_chans", "embed_dim"), LARGEST)
    return ModelConfig(**shape | {"num_classes": 2**31, "num_heads": MOST, "patch_size": 1, "depth": 2} | changes)


@pytest.mark.parametrize("encoding", get_args(PosEncoding))
def test_the_largest_of_everything_is_still_a_number(encoding: str) -> None:
    with torch.device("meta"):
        model = VisionTransformer(largest(pos_encoding=encoding, mlp_ratio=MOST))
    assert sum(p.numel() for p in model.parameters()) > 10**14


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("embed_dim", LARGEST + 1, f"less than or equal to {LARGEST}"),
        ("image_size", (8, LARGEST + 1), f"less than or equal to {LARGEST}"),
        ("depth", MOST + 1, f"less than or equal to {MOST}"),
        ("num_heads", 10**30, f"less than or equal to {MOST}"),
        ("num_classes", 2**31 + 1, f"less than or equal to {2**31}"),
        ("registers", -1, "greater than or equal to 0"),
        ("mlp_ratio", 1e300, f"less than or equal to {MOST}"),
        ("mlp_ratio", float("nan"), "finite"),
        ("layer_scale", 0.0, "greater than 0"),
    ],
)
def test_a_number_beyond_its_range_is_told_the_range(key: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        ModelConfig(**{key: value})
    assert caught.value.where == key


def test_an_mlp_without_features_is_told_the_smallest_ratio() -> None:
    with pytest.raises(ConfigError, match=r"no hidden feature; the smallest that does: 0\.0625"):
        ModelConfig(embed_dim=16, num_heads=2, mlp_ratio=0.01)
    for width in range(1, LARGEST, 997):
        with pytest.raises(ConfigError) as caught:
            ModelConfig(embed_dim=width, num_heads=1, mlp_ratio=1e-9)
        ((_, (ratio,)),) = [advice(caught.value)]
        assert int(width * ModelConfig(embed_dim=width, num_heads=1, mlp_ratio=ratio).mlp_ratio) == 1


def test_a_grid_to_count_in_is_for_encodings_that_count() -> None:
    for encoding in get_args(PosEncoding):
        if encoding in COMPUTED:
            assert ModelConfig(pos_encoding=encoding, image_size=64).reference_grid == (4, 4)
            counts = ModelConfig(pos_encoding=encoding, image_size=64, pos_grid=[3, 5])
            assert (counts.grid, counts.reference_grid) == ((4, 4), (3, 5))
            assert ModelConfig(**counts.model_dump(mode="json")) == counts
        else:
            with pytest.raises(
                ConfigError, match=f"pos_grid means nothing to pos_encoding {encoding}, .* leave it unset"
            ):
                ModelConfig(pos_encoding=encoding, pos_grid=(3, 5))


@pytest.mark.parametrize("value", [6, (3,), (3, 0), (3, LARGEST + 1), (3, 4, 5), True, "3x4"])
def test_a_grid_is_rows_and_columns(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(pos_encoding="rope_2d", pos_grid=value)
    assert caught.value.where == "pos_grid"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_the_usual_images_with_every_encoding(name: str) -> None:
    for encoding in get_args(PosEncoding):
        preset = ModelConfig.preset(name, patch_size=16, image_size=224, pos_encoding=encoding)
        assert preset.grid == (14, 14)
