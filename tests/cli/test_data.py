"""``vitray data`` as a person uses it: what is printed, where, and the exit codes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vitray.cli import main
from vitray.data.sources import open_source


@dataclass
class Said:
    code: int
    out: str
    err: str


class Shell:
    """Runs ``vitray ...`` in this process, in a folder of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: str) -> Said:
        self._monkeypatch.setattr(sys, "argv", ["vitray", *words])
        code = 0
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        said = self._capsys.readouterr()
        return Said(code, said.out, said.err)


@pytest.fixture
def vitray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return Shell(monkeypatch, capsys)


@pytest.mark.slow
def test_prepare_inspect_verify(vitray: Shell, tmp_path: Path) -> None:
    done = vitray("data", "prepare", "builtin:digits", "ds")
    assert done.code == 0
    assert "1,258" in done.out
    assert "1797/1797" in done.err
    done = vitray("data", "inspect", "ds")
    assert done.code == 0
    assert "8 x 8 pixels, grayscale" in done.out
    assert "ds-samples.png" in done.out
    assert (tmp_path / "ds-samples.png").read_bytes().startswith(b"\x89PNG")
    done = vitray("data", "verify", "ds")
    assert (done.code, done.out) == (0, "ds: all 3 shards are as written\n")


def test_json_stands_alone_on_stdout(vitray: Shell) -> None:
    facts = json.loads(vitray("data", "prepare", "builtin:digits", "ds", "--output", "json").out)
    assert facts["splits"]["val"]["rows"] == 180
    facts = json.loads(vitray("data", "inspect", "ds", "--to", "sheet.png", "--output", "json").out)
    assert facts["contact_sheet"] == "sheet.png"
    assert json.loads(vitray("data", "verify", "ds", "--output", "json").out)["findings"] == []


@pytest.mark.slow
def test_options_reach_the_dataset(vitray: Shell) -> None:
    words = ["--seed", "3", "--rows-per-group", "10", "--shard-mb", "0.02", "--fractions", "0.5,0.5,0"]
    facts = json.loads(vitray("data", "prepare", "builtin:digits", "ds", *words, "--output", "json").out)
    assert facts["rows_per_group"] == 10
    assert facts["splits"]["train"]["rows"] == 899
    assert facts["splits"]["train"]["shards"] > 3
    assert facts["splits"]["test"]["rows"] == 0


def test_verify_names_damage_and_exits_1(vitray: Shell, tmp_path: Path) -> None:
    vitray("data", "prepare", "builtin:digits", "ds")
    shard = tmp_path / "ds/val/00000.parquet"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    (tmp_path / "ds/test/00000.parquet").unlink()
    done = vitray("data", "verify", "ds")
    assert done.code == 1
    assert "val/00000.parquet" in done.out
    assert "its bytes changed" in done.out
    assert "test/00000.parquet" in done.out
    assert "is missing" in done.out
    assert "2 files are not as the manifest says" in done.err
    done = vitray("data", "inspect", "ds")
    assert done.code == 2
    assert "test/00000.parquet: is missing" in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prepare", "builtin:digit", "ds"], "did you mean 'builtin:digits'"),
        (["prepare", "nowhere", "ds"], "there is no such source"),
        (["prepare", "builtin:digits", "ds", "--fractions", "1,2"], "write for example 0.7,0.1,0.2"),
        (["prepare", "builtin:digits", "ds", "--fractions", "1,1,1"], "sum to 1"),
        (["prepare", "builtin:digits", "used"], "is not empty and no finished dataset"),
        (["prepare", "builtin:digits", "used/file/ds"], "used/file/ds"),
        (["inspect", "used"], "is not a dataset"),
        (["verify", "nowhere"], "there is no such dataset folder"),
    ],
)
def test_what_the_user_must_change_exits_2_with_one_message(
    vitray: Shell, tmp_path: Path, words: list[str], says: str
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    done = vitray("data", *words)
    assert done.code == 2
    assert done.out == ""
    assert says in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "ds").exists()


def test_refused_images_are_mentioned(vitray: Shell, tmp_path: Path) -> None:
    source = open_source("builtin:digits")
    for item in list(source.items(source.chunks()[0]))[:60]:
        file = tmp_path / "src" / str(item.label) / item.key.replace("/", "-")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(item.data)
    (tmp_path / "src/0/bad.jpg").touch()
    done = vitray("data", "prepare", "src", "ds")
    assert done.code == 0
    assert "left out 1 images; quarantine.parquet says which and why" in done.err
    done = vitray("data", "prepare", "src", "other", "--max-bad-fraction", "0")
    assert done.code == 2
    assert "0/bad.jpg: empty file" in done.err
