"""From YAML and ``key=value`` words to an experiment: what is read how, and that bad text is one clear error."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.overrides import parse_value, resolve_path, to_yaml


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


def load(folder: Path, text: str, *overrides: str) -> Experiment:
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return Experiment.load(file, overrides)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("2E5", 2e5), ("+1e+2", 100.0), ("-1.e2", -100.0), ("1.5e-3", 1.5e-3), ("6", 6),
        ("0.5", 0.5), ("true", True), ("[1, 2e-1]", [1, 0.2]), ("rope_2d", "rope_2d"), ("none", "none"),
        ("null", None), ("", None), ("'1e-3'", "1e-3"), ("e3", "e3"), ("{log: [1e-3, 1]}", {"log": [1e-3, 1]}),
    ],
)  # fmt: skip
def test_values_are_read_as_a_person_means_them(text: str, value: Any) -> None:
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


def test_overrides_win_over_the_file_and_later_ones_over_earlier(folder: Path) -> None:
    made = load(folder, "data: {path: /d}\nmodel: {depth: 2}\n", "model.depth=3", "model.depth = 4", "optim.lr=1e-4")
    assert (made.model.depth, made.optim.lr) == (4, 1e-4)


def test_an_override_makes_the_sections_it_needs(folder: Path) -> None:
    made = load(folder, "data: {path: /d}", "data.augment.shift=2", "search.space.model.depth=[1, 2]", "tracking={}")
    assert made.data.augment.shift == 2
    assert made.search is not None
    assert made.search.space == {"model.depth": [1, 2]}


def test_a_model_that_does_not_fit_takes_what_every_trial_has(folder: Path) -> None:
    wide = "data: {path: /d}\nmodel: {embed_dim: 32, depth: 7}\n"
    space = "search: {space: {model.num_heads: [5, 2, 4], model.depth: [1], optim.lr: {log: [0.1, 1]}}}\n"
    made = load(folder, wide + space)
    assert (made.model.num_heads, made.model.depth) == (2, 7), "the first that fits; what is written stays"
    with pytest.raises(ConfigError, match="num_heads 5 does not divide"):
        load(folder, wide + space, "model.num_heads=5")
    with pytest.raises(ConfigError, match="num_heads 3 does not divide embed_dim 32"):
        load(folder, wide, "search.space.model.num_heads=[5, 7]")
    digits = load(folder, "data: {path: /d}\n", "search.space={model.patch_size: {values: [3, 1, 2]}}")
    assert digits.resolve(image_size=8, in_chans=1, num_classes=10).model.patch_size == 1
    named = digits.with_values({"name": "x", "optim.lr": 0.1})
    assert named.resolve(image_size=8, in_chans=1, num_classes=10).model.patch_size == 1
    written = load(folder, "data: {path: /d}\nmodel: {patch_size: 3}\n", "search.space={model.patch_size: [1, 2]}")
    with pytest.raises(ConfigError, match="patch_size 3 does not divide image_size 8"):
        written.with_values({"name": "x"}).resolve(image_size=8, in_chans=1, num_classes=10)


def test_a_value_may_hold_an_equals_sign(folder: Path) -> None:
    assert load(folder, "data: {path: /d}", "data.path=s3://bucket/a=b").data.path == "s3://bucket/a=b"


def test_relative_paths_count_from_the_config_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "elsewhere")
    made = load(folder, "data: {path: ../sets/digits}\ntrain: {init_from: weights}\n")
    assert made.data.path == str((folder / ".." / "sets" / "digits").resolve())
    assert made.train.init_from == str(folder / "weights")
    (folder / "here.yaml").write_text("data: {path: digits}")
    assert Experiment.load("../here.yaml").data.path == str(folder / "digits")


def test_relative_paths_of_overrides_count_from_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "work").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "work")
    made = load(folder, "data: {path: /d}\ntrain: {init_from: weights}\n", "data.path=mine")
    assert made.data.path == str(folder / "work" / "mine")
    assert made.train.init_from == str(folder / "weights")


def test_uris_builtin_names_and_absolute_paths_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for path in ("s3://bucket/set", "gs://b/x", "file:///x/y", "builtin:digits", "/abs/olute"):
        assert load(folder, f"data: {{path: '{path}'}}").data.path == path
    assert resolve_path("~/set", base=folder) == "/home/me/set"


def test_a_merge_key_takes_over_and_own_keys_win(folder: Path) -> None:
    text = "data: {path: /d}\nmodel: {<<: {depth: 3, embed_dim: 96}, depth: 4}\n"
    made = load(folder, text)
    assert (made.model.depth, made.model.embed_dim) == (4, 96)


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("data: {path: /d}\nmodel:\n  depth: 1\n  depth: 2\n", (), "line 4: is not valid YAML: the key 'depth' is"),
        ("data: {path: /d}\ndata: {path: /e}\n", (), "the key 'data' is given twice"),
        ("data: {path: /d}\n? [1, 2]\n: 3\n", (), "line 2"),
        ("data: [unclosed\n", (), "is not valid YAML"),
        ("data: {path: /d}\n\tmodel: 1\n", (), "line 2"),
        ("data: {path: /d}\nname: 2024-13-45\n", (), "month"),
        ("data: {path: !!timestamp x}\n", (), "is not valid YAML"),
        ("data: {path: \0}\n", (), "special characters"),
        ("", (), "must be a mapping"),
        ("- data\n", (), "must be a mapping"),
        ("1: {}\n", (), "unknown key 1"),
        ("data: {path: /d}\non: {}\n", (), "unknown key True"),
        ("data: {path: /d, 1: 2}\n", (), "data"),
        ("just words\n", (), "must be a mapping"),
        ("data: {path: /d}\n", ("model.depth",), "write section.key=value"),
        ("data: {path: /d}\n", ("=3",), "write section.key=value"),
        ("data: {path: /d}\n", ("model.depth=[1",), "is not a YAML value"),
        ("data: {path: /d}\n", ("model={depth: 1, depth: 2}",), "the key 'depth' is given twice"),
        ("data: {path: /d}\n", ("model.dept=3",), "did you mean 'model.depth'"),
        ("data: {path: /d}\n", ("modl.depth=3",), "did you mean 'model'"),
        ("data: {path: /d}\n", ("data.augment.shfit=3",), "did you mean 'data.augment.shift'"),
        ("data: {path: /d}\n", ("model.depth.x=3",), "model.depth"),
        ("data: {path: /d}\nmodel: 6\n", ("model.depth=3",), "holds a value"),
        ("data: {path: /d}\n", ("name=" + "[" * 500,), "nested too deeply"),
        ("data: {path: /d}\nmodle: {}\n", (), "did you mean 'model'"),
        ("data: null\n", (), "data"),
        ("model: {depth: 2}\n", (), "data: is required"),
    ],
)  # fmt: skip
def test_bad_text_is_one_clear_error(folder: Path, text: str, overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [echo]", "!!python/name:os.system", "!include x"])
def test_tags_that_name_code_are_refused(folder: Path, tag: str) -> None:
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load(folder, f"data: {{path: /d}}\nmodel: {tag}\n")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load(folder, "data: {path: /d}\n", f"name={tag}")


def test_a_file_that_cannot_be_read_is_an_error_of_the_config(folder: Path) -> None:
    for path in (folder / "none.yaml", folder, folder / "config.yaml" / "below"):
        load(folder, "data: {path: /d}")
        with pytest.raises(ConfigError, match="there is no such config file"):
            Experiment.load(path)
    (folder / "latin.yaml").write_bytes("data: {path: Grün}".encode("latin-1"))
    with pytest.raises(ConfigError, match="not a text file"):
        Experiment.load(folder / "latin.yaml")
    loop = folder / "loop.yaml"
    loop.symlink_to(loop)
    with pytest.raises(ConfigError, match="cannot be read"):
        Experiment.load(loop)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_an_error_of_the_config(folder: Path) -> None:
    (folder / "secret.yaml").write_text("data: {path: /d}")
    (folder / "secret.yaml").chmod(0)
    with pytest.raises(ConfigError, match="cannot be read"):
        Experiment.load(folder / "secret.yaml")


@settings(max_examples=40)
@example("? {a: 1}\n: 2").via("a mapping as a key")
@given(st.one_of(st.text(max_size=40), st.text(alphabet="data:{}[]<>!&*-?|#'\" \n1e.=", max_size=30)))
def test_whatever_a_file_holds_the_answer_is_an_experiment_or_a_config_error(folder: Path, text: str) -> None:
    for body, words in ((text, ()), ("data: {path: /d}\n" + text, ()), ("data: {path: /d}\n", (text,))):
        with suppress(ConfigError):
            assert isinstance(load(folder, body, *words), Experiment)


_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True) | st.sampled_from(
    ["1e3", "0x1F", "null", "on", "12e05", "1_000", "2024-01-01", "1.5", "0o17"]
)
_experiments = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {"path": st.sampled_from(["/d", "s3://b/c", "builtin:digits", "/with blank/ü: #x", "/d/'quoted'"])},
            optional={"image_size": st.sampled_from([8, (8, 12)]), "cache_bytes": st.integers(0, 2**40)},
        ),
        "model": st.fixed_dictionaries(
            {"patch_size": st.sampled_from([1, 2, 4])},
            optional={"dropout": st.floats(0, 0.99), "layer_scale": st.none() | st.floats(1e-9, 1)},
        ),
        "optim": st.fixed_dictionaries({"lr": st.floats(1e-12, 1e3), "weight_decay": st.floats(0, 1e300)}),
        "cluster": st.fixed_dictionaries(
            {"workers": st.sampled_from([1, (1, 3)]), "use_gpu": st.sampled_from(["auto", True])}
        ),
        "tracking": st.fixed_dictionaries({"experiment": _names | st.text(max_size=10)}),
    },
    optional={
        "name": _names,
        "search": st.fixed_dictionaries(
            {"space": st.sampled_from([{}, {"model.depth": [1, 2], "optim.lr": {"log": [1e-5, 1.0]}}])}
        ),
    },
)  # fmt: skip


@settings(max_examples=25)
@given(_experiments)
def test_an_experiment_written_as_yaml_loads_as_itself(folder: Path, values: dict[str, Any]) -> None:
    made = Experiment(**values)
    again = load(folder, to_yaml(made.model_dump(mode="json")))
    assert again == made
    assert again.identity == made.identity
    assert hash(again) == hash(made)
