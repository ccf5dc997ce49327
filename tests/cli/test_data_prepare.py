"""``vitray data prepare`` as a person uses it: options that cannot be meant, where it runs, an interrupt, a bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Here, apart
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_server import KEY, SECRET, Bucket

from vitray.cli.data_prepare import chosen
from vitray.data.mapper import Threads

NUMBERS = ["--seed", "--size", "--rows-per-group", "--shard-mb", "--max-bad-fraction", "--max-pixels"]
OTHERS = ["--fractions", "--splits", "--executor", "--path-column", "--label-column", "--address"]


@pytest.fixture
def vitray(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Here:
    monkeypatch.chdir(tmp_path)
    return Here(capsys)


@pytest.mark.parametrize("option", NUMBERS)
def test_numbers_that_cannot_be_meant_are_refused(vitray: Here, tmp_path: Path, option: str) -> None:
    for value in ("-1", "nan", "inf", "-inf", "1e999", "", "x", "99999999999999999999999999"):
        said = vitray("data", "prepare", "builtin:digits", "ds", option, value)
        assert said.code == 2, (option, value)
        assert said.out == ""
        assert said.err.lower().count("error: ") == 1
        assert option.strip("-") in said.err.replace("_", "-")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NUMBERS + OTHERS[:-1]), st.text(max_size=8))
def test_no_option_brings_forth_a_traceback(vitray: Here, tmp_path: Path, option: str, value: str) -> None:
    said = vitray("data", "prepare", "nowhere", "ds", option, value)
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_contradicts_itself_is_refused(vitray: Here) -> None:
    for words, says in (
        (["--executor", "local", "--address", "10.0.0.1:6379"], "runs without one"),
        (["--address", "http://10.0.0.1:8265"], "not joined through http"),
        (["--splits", "folders"], "has no splits of its own"),
        (["--label-column", "label"], "label"),
    ):
        said = vitray("data", "prepare", "builtin:digits", "ds", *words)
        assert said.code == 2
        assert says in said.err


def test_a_small_source_is_prepared_here_and_json_says_what_was_converted(vitray: Here, tmp_path: Path) -> None:
    with chosen("auto", None)(64) as mapper:  # type: ignore[operator]
        assert isinstance(mapper, Threads)
    said = vitray("data", "prepare", "builtin:synthetic?count=60&size=16", "ds", "--size", "8", "--output", "json")
    facts = json.loads(said.out)
    assert facts["converted"] == {"resized": 60}
    assert "60/60" in said.err
    said = vitray("data", "inspect", "ds")
    assert "60 resized" in said.out


@pytest.mark.ray
def test_a_ray_data_job_gives_the_same_result(vitray: Here, tmp_path: Path) -> None:
    import ray

    source = "builtin:synthetic?count=8400&size=8&format=png"
    said = vitray("data", "prepare", source, "ray", "--shard-mb", "0.2", "--executor", "ray")
    assert said.code == 0
    assert "8400/8400" in said.err
    assert "Dataset" not in said.err
    assert not ray.is_initialized()
    assert vitray("data", "prepare", source, "local", "--shard-mb", "0.2", "--executor", "local").code == 0
    names = [path.relative_to("ray") for path in Path("ray").rglob("*") if path.is_file()]
    assert len(names) > 4
    for name in names:
        assert (Path("ray") / name).read_bytes() == (Path("local") / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_an_interrupt_says_one_word_and_leaves_nothing(tmp_path: Path, executor: str) -> None:
    words = ["data", "prepare", "builtin:synthetic?count=1000000&size=64", "out/ds", "--executor", executor]
    process = subprocess.Popen(
        [sys.executable, "-m", "vitray.cli", *words, "--size", "32"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("out/.ds.preparing-*/.staging/*")):  # it is at work
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the command hears it
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_bucket_is_prepared_verified_and_inspected_without_showing_its_key(tmp_path: Path, bucket: Bucket) -> None:
    uri = bucket.uri("digits")
    for words, says in (
        (["inspect", uri], "there is no such dataset"),
        (["prepare", "builtin:digits", uri], "1,258"),
        (["prepare", "builtin:digits", uri], "holds a dataset already"),
        (["verify", uri], "all 3 shards are as written"),
        (["inspect", uri], "digits-samples.png"),
    ):
        said = apart("data", *words, cwd=tmp_path)
        assert says in said.out + said.err
        assert KEY not in said.out + said.err
        assert SECRET not in said.out + said.err
    assert [path.name for path in tmp_path.iterdir()] == ["digits-samples.png"]
