"""``vitray sweep plan``: what a sweep would do, without doing anything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import Here, contents

from vitray.cluster.machine import Machine

QUICKSTART = str(Path(__file__).parent.parent.parent / "configs" / "quickstart.yaml")


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Here:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: cls(cpus=8, gpus=0)))
    return Here(capsys)


def facts(here: Here, *words: str) -> dict[str, Any]:
    said = here("sweep", "plan", QUICKSTART, "--output", "json", *words)
    assert said.code == 0, said.err
    read = json.loads(said.out)
    assert isinstance(read, dict)
    return read


def test_it_tells_the_space_the_trials_and_the_resources(here: Here, digits: Path) -> None:
    said = facts(here, f"data.path={digits}", "search.trials=20", "search.concurrent=4", "cluster.use_gpu=false")
    assert said["trials"] == 20
    assert said["trials_at_once"] == 4
    assert said["resources_per_trial"] == "1 rank of 1 CPU, each with 2 threads and 2 data tasks of 0.5 CPU"
    assert said["valid_architectures"] + sum(said["refused"].values()) == said["architectures"]
    assert said["space"]["model.pos_encoding"] == [
        "none", "learned", "sinusoidal", "sinusoidal_2d", "relative", "rope_2d",
    ]  # fmt: skip
    assert said["points_in_grid"] is None
    assert said["rungs"][-1]["epoch"] == 40


def test_the_table_shows_the_same(here: Here, digits: Path) -> None:
    grid = ("search.space={model.patch_size: [1, 2, 3], model.depth: [1, 2]}", "search.trials=3", f"data.path={digits}")
    said = here("sweep", "plan", QUICKSTART, *grid)
    assert said.code == 0
    lines = {" ".join(line.split()) for line in said.out.splitlines()}
    assert "space 6 points, 4 valid" in lines
    assert "architectures 4 of 6 valid" in lines
    assert "refused 2: patch_size 3 does not divide image_size 8" in lines
    assert "trials 3" in lines
    cheapest = next(line for line in lines if line.startswith("cheapest "))
    assert re.match(r"cheapest \d\d,\d{3} parameters, 0\.00\d+ GFLOP to train on an image", cheapest)
    assert cheapest.endswith("(patch_size=2, depth=1)")
    assert any(line.startswith("dearest ") and line.endswith("(patch_size=1, depth=2)") for line in lines)
    assert any(re.fullmatch(r"training about \d\S* FLOP, at most \d\S*", line) for line in lines), lines
    assert "scheduler asha" in lines
    assert any(line.startswith("rung epoch 4: about 3 trials") for line in lines)
    assert any(re.match(r"worker-hours .*assumed: 50% of the \d+ GFLOP/s .* no sweep yet", line) for line in lines), (
        lines
    )
    assert any(line.startswith("afterwards retraining over 80 epochs: about") for line in lines)
    search = ("search.scheduler=pbt", "search.space={optim.lr: [1e-4, 1e-3]}", "search.budget.trials=1")
    lines = {" ".join(line.split()) for line in here("sweep", "plan", QUICKSTART, *search).out.splitlines()}
    assert {"compared 9 times, at epochs 4 to 36", "budget 1 trials", "algorithm random"} <= lines
    search = ("search.scheduler=hyperband", "search.algorithm=tpe", "search.trials=20")
    lines = {" ".join(line.split()) for line in here("sweep", "plan", QUICKSTART, *search).out.splitlines()}
    assert {"bracket epoch 40: 4 trials", "bracket epoch 13: 6 trials, epoch 40: 2 trials"} <= lines
    assert "algorithm tpe; at most 20 trials, proposed as results come in" in lines


def test_it_runs_nothing_and_writes_nothing_but_builtin_data(here: Here, tmp_path: Path) -> None:
    facts(here)
    written = contents(tmp_path)
    assert written
    assert all(name.startswith("home/data/digits-v2/") for name in written)
    before = dict(written)
    facts(here)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("search.space={model.patch_size: [3, 5]}",), "search.space: holds no valid point: patch_size 3 does not"),
        (("search.space={model.dept: [3]}",), "did you mean 'model.depth'"),
        (("search.concurrent=99",), "set search.concurrent=8 or auto"),
        (("cluster.workers=9",), "set cluster.workers=8"),
        (("search.algorithm=grid",), "is a range, which has no grid"),
        (("search=null",), "has no space to search"),
        (("model.num_classes=11",), "model.num_classes: is 11, but the data has 10"),
        (("train.split=train+val",), "train.split"),
        (("search.space={model.depth: {values: [1, 2], when: model.pool in [cls]}}",), "when: 'KEY in [A, B]'"),
        (("search.space={model.depth: {values: [1, 2], when: model.pool == a, b}}",), "quotes around a condition"),
        (("search.space={model.depth: [2]}",), "vitray train CONFIG model.depth=2"),
        (("search.from=before",), "there is no sweep named 'before'"),
    ],
)
def test_what_cannot_run_is_refused(here: Here, digits: Path, words: tuple[str, ...], says: str) -> None:
    said = here("sweep", "plan", QUICKSTART, f"data.path={digits}", "cluster.use_gpu=false", *words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


@pytest.mark.parametrize("fractions", [(0.8, 0.0, 0.2), (0.8, 0.2, 0.0)])
def test_a_dataset_without_val_or_test_cannot_be_searched_on(
    here: Here, tmp_path: Path, fractions: tuple[float, float, float]
) -> None:
    from vitray.data.prepare import prepare

    prepare("builtin:digits", tmp_path / "ds", fractions=fractions)
    said = here("sweep", "plan", QUICKSTART, f"data.path={tmp_path}/ds")
    assert said.code == 2
    assert "has no images in its" in said.err
