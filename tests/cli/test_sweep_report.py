"""``vitray sweep report`` on a sweep's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Here
from written_sweep import searched


def test_the_command_writes_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRAY_HOME", str(tmp_path))
    saved, vitray = searched(tmp_path / "runs", trials=4), Here(capsys)
    said = vitray("sweep", "report", "digits")
    assert said.code == 0
    assert str(saved.folder / "report.html") in said.out
    said = vitray("sweep", "report", "digits", "--to", str(tmp_path / "new" / "page.html"), "--output", "json")
    facts = json.loads(said.out)
    assert Path(facts["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (facts["status"], facts["best"], facts["test_accuracy"]) == ("done", saved.facts["best"], 0.9417)
    for words in (["digit"], ["digits", "--to", str(tmp_path)]):
        said = vitray("sweep", "report", *words)
        assert (said.code, said.out) == (2, "")
        assert "->" in said.err
