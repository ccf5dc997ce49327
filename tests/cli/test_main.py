"""The command line itself: what it lists, what it prints where, and which exit code each end has."""

from __future__ import annotations

import errno
import importlib
import json
import sys
from typing import Any

import click
import pytest
from command_line import Here

from vitray import __version__, cli
from vitray.cli.output import emit, grid
from vitray.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InterruptedRunError,
    ResourceError,
    TrackingError,
    TrainingError,
)


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(capsys)


@pytest.fixture
def ends_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes ``vitray train`` do nothing but raise."""

    def arrange(error: BaseException) -> None:
        @click.command()
        def train() -> None:
            raise error

        monkeypatch.setattr("vitray.cli.train.train", train)

    return arrange


def test_help_lists_every_command(here: Here) -> None:
    said = here("--help")
    assert said.code == 0
    for name in cli._COMMANDS:
        assert f"\n  {name} " in said.out
    assert "Exit codes: 0 done, 1 failed, 2 something for you to change, 130 interrupted" in said.out


@pytest.mark.parametrize("name", cli._COMMANDS)
def test_every_command_has_help_of_its_own(here: Here, name: str) -> None:
    module, _ = cli._COMMANDS[name]
    command = getattr(importlib.import_module(f"vitray.cli.{module}"), name)
    assert isinstance(command, click.Command)
    for words in ((name, "--help"), (name, "-h")):
        said = here(*words)
        assert said.code == 0
        assert said.out.startswith("Usage:")
    if isinstance(command, click.Group):
        for verb in command.commands:
            assert here(name, verb, "--help").code == 0


def test_the_version_is_told(here: Here) -> None:
    assert here("--version").out == f"vitray, version {__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("trian",), "did you mean 'train' or 'track'?"),
        (("xyzzy",), "known: data, doctor, evaluate"),
        (("sweep", "plna", "x.yaml"), "No such command 'plna'"),
        (("sweep", "plan"), "Missing argument 'CONFIG'"),
        (("train", "x.yaml", "--outpt", "json"), "--output"),
        (("train", "x.yaml", "--output", "xml"), "'xml' is not one of 'table', 'json'"),
        (("--verbose",), "No such option"),
    ],
)
def test_wrong_words_are_exit_code_2_with_a_hint(here: Here, words: tuple[str, ...], says: str) -> None:
    said = here(*words)
    assert said.code == 2
    assert said.out == ""
    assert says in said.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("is wrong", where="model.depth", remedy="mend it"), 2),
        (DataError("is wrong", where="model.depth", remedy="mend it"), 2),
        (ResourceError("is wrong", where="model.depth", remedy="mend it"), 2),
        (TrackingError("is wrong", where="model.depth", remedy="mend it"), 2),
        (TrainingError("is wrong", where="model.depth", remedy="mend it"), 1),
        (CheckpointError("is wrong", where="model.depth", remedy="mend it"), 1),
        (InterruptedRunError("is wrong", where="model.depth", remedy="mend it"), 130),
    ],
)
def test_each_error_is_one_message_and_its_exit_code(here: Here, ends_with: Any, error: Exception, code: int) -> None:
    ends_with(error)
    said = here("train")
    assert said.code == code
    assert said.out == ""
    assert said.err == "error: model.depth: is wrong\n  -> mend it\n"


def test_a_full_disk_is_one_message_too(here: Here, ends_with: Any) -> None:
    ends_with(OSError(errno.ENOSPC, "No space left on device", "/disk/runs/first/figures"))
    said = here("train")
    assert said.code == 1
    assert said.err.startswith("error: /disk/runs/first/figures: No space left on device\n  -> make room there")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_is_exit_code_130(here: Here, ends_with: Any, error: BaseException) -> None:
    ends_with(error)
    said = here("train")
    assert (said.code, said.out) == (130, "")
    assert said.err.strip() == "interrupted"


def test_a_surprise_keeps_its_traceback(ends_with: Any) -> None:
    ends_with(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main(["train"])


def test_for_debugging_an_error_keeps_its_traceback(ends_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAY_DEBUG", "1")
    ends_with(ConfigError("is wrong"))
    with pytest.raises(ConfigError, match="is wrong"):
        cli.main(["train"])


def test_a_job_script_runs_its_command_with_its_own_words(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/sweep.py", "none.yaml", "search.trials=2"])
    with pytest.raises(SystemExit) as done:
        cli.run_as_job("sweep", "run")
    assert done.value.code == 2


def test_data_go_to_stdout_as_json_or_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"a": [1, 2], "path": importlib.machinery.PathFinder}
    emit(data, "json", table=lambda: "never")
    assert json.loads(capsys.readouterr().out)["a"] == [1, 2]
    emit(data, "table", table=lambda: "a table\n\n")
    assert capsys.readouterr().out == "a table\n"


def test_a_grid_is_aligned_and_ends_without_blanks() -> None:
    text = grid([("a", 1), ("longer", "")], ("name", "value"))
    assert text.splitlines() == ["name    value", "------  -----", "a       1", "longer"]
    assert grid([], ("a", "b")).splitlines() == ["a  b", "-  -"]
