"""``vitray models``, ``predict`` and ``ui``: exit codes, JSON alone on stdout, messages with a remedy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from vitray.cli import main
from vitray.data.decode import encode_png
from vitray.experiment import ModelConfig
from vitray.home import Home
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package
from vitray.tracking import MlflowTracker, registry

pytestmark = pytest.mark.slow


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process, down to its exit code."""

    def go(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["vitray", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        return Said(code, *capfd.readouterr())

    return go


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with two versions of one model."""
    home = Home(tmp_path_factory.mktemp("state"))
    torch.manual_seed(0)
    shape = {"image_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10}
    config = ModelConfig(**shape, embed_dim=16, depth=2, num_heads=2, pos_encoding="rope_2d")
    info = PackageInfo(
        model=config, classes=tuple("0123456789"), mean=(0.3,), std=(0.4,), dataset_fingerprint="abcdef" * 10
    )
    package = save_package(home.root / "package", VisionTransformer(config).state_dict(), info)
    uri = f"sqlite:///{home.database}"
    tracker = MlflowTracker(uri, home.spool, home.artifacts)
    for number in (1, 2):
        run = f"sweep-{number}"
        tracker.start_run(run, name=run, experiment="digits", params={}, tags={})
        tracker.end_run(run, "FINISHED")
        assert tracker.flush(60)
        given: dict[str, Any] = {"name": "digits", "package": package, "run": run, "description": f"Sweep {number}."}
        registry.register_model(uri, **given, tags={"vitray.sweep": run}, metrics={"test/accuracy": 0.9 + number / 100})
    tracker.close()
    return home.root


@pytest.fixture
def store(registered: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITRAY_HOME", str(registered))
    return registered


def test_an_empty_registry_says_where_it_looked(run: Run, tmp_path: Path) -> None:
    said = run("models", "list", "--output", "json")
    assert (said.code, said.json) == (0, [])
    assert f"no models yet in sqlite:///{tmp_path}/home/mlflow.db" in said.err
    assert run("models", "list").out.strip() == ""
    assert not (tmp_path / "home").exists()  # looking leaves no trace
    said = run("models", "show", "digits")
    assert (said.code, said.out) == (2, "")
    assert "vitray quickstart" in said.err


def test_list_and_show(run: Run, store: Path) -> None:
    said = run("models", "list")
    assert said.code == 0
    rows = [line.split() for line in said.out.splitlines()[2:]]
    assert [row[:4] for row in rows] == [["digits", "2", "champion", "0.9200"], ["digits", "1", "0.9100", rows[1][3]]]
    assert "4/2/2/rope_2d" in said.out
    first, second = run("models", "list", "--output", "json").json
    assert (first["version"], first["aliases"], second["version"]) == (2, ["champion"], 1)
    assert first.items() >= {"test_accuracy": 0.92, "patch": 4, "depth": 2, "heads": 2, "encoding": "rope_2d"}.items()
    assert first["dataset"] == "abcdefabcdef"
    for name, version in {"digits": 2, "digits@champion": 2, "digits/1": 1, "models:/digits/1": 1}.items():
        shown = run("models", "show", name, "--output", "json").json
        assert (shown["version"], shown["run"]) == (version, f"sweep-{version}")
    page = run("models", "show", "digits/1").out
    assert "Sweep 1." in page
    assert "test/accuracy" in page


def test_unknown_models_exit_with_2_and_the_nearest_name(run: Run, store: Path) -> None:
    for words, expected in {
        ("show", "digit"): "did you mean 'digits'",
        ("show", "digits@champoin"): "did you mean 'champion'",
        ("pull", "digits/9", "dest"): "there are: digits/2",
        ("promote", "digits", "9"): "no version 9",
        ("promote", "digits", "one"): "not a valid integer",
        ("rollback", "digit"): "did you mean 'digits'",
        ("rollback", "digits", "--alias", "other"): "it was never set",
        ("delete", "digits/9", "--yes"): "no version 9",
        ("delete", "digits@champion"): "is the champion",
        ("delete", "digits/1"): "nobody is there to answer",
        ("compare", "digits/1", "digits/8"): "no version 8",
    }.items():
        said = run("models", *words)
        assert (said.code, said.out) == (2, ""), words
        assert expected in said.err


def test_an_unknown_model_is_said_fast(registered: Path) -> None:
    began = time.monotonic()
    environment = {**os.environ, "VITRAY_HOME": str(registered)}
    command = [sys.executable, "-X", "importtime", "-m", "vitray.cli", "predict", "models:/digit@champion", "x.png"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "did you mean 'digits'" in done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"mlflow", "torch", "ray", "pandas"}
    assert time.monotonic() - began < 20  # 0.2 s on an idle machine; the imports above are what would cost seconds


def test_promote_moves_the_alias(run: Run, store: Path) -> None:
    said = run("models", "promote", "digits", "1", "--alias", "best")
    assert (said.code, said.out) == (0, "models:/digits@best is version 1 now\n")
    said = run("models", "promote", "digits", "2", "--alias", "best", "--output", "json")
    assert (said.json["aliases"], said.json["was"]) == (["best", "champion"], 1)


def test_rollback_and_its_history(run: Run, store: Path) -> None:
    assert run("models", "rollback", "digits").out == "models:/digits@champion is version 1 again; it was version 2\n"
    assert run("models", "promote", "digits", "2", "--output", "json").json["was"] == 1
    moves = run("models", "show", "digits", "--output", "json").json["alias_history"]["champion"]
    assert [move.rsplit(" ", 2)[0] for move in moves] == [
        "v1 registered",
        "v2 registered",
        "v1 rolled back",
        "v2 promoted",
    ]
    assert "v1 rolled back" in run("models", "show", "digits").out


def test_delete_asks_and_leaves_the_rest(
    run: Run, registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(registered, home)
    monkeypatch.setenv("VITRAY_HOME", str(home))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda *args, **kwargs: False)
    assert run("models", "delete", "digits/1").code == 2
    assert len(run("models", "list", "--output", "json").json) == 2
    monkeypatch.setattr("click.confirm", lambda *args, **kwargs: True)
    assert run("models", "delete", "digits/1").out == "deleted models:/digits/1\n"
    assert [v["version"] for v in run("models", "list", "--output", "json").json] == [2]
    said = run("models", "delete", "digits", "--yes", "--output", "json")
    assert said.json == {"deleted": ["models:/digits/2"], "model": "digits"}
    assert run("models", "list", "--output", "json").json == []


def test_compare_side_by_side_and_on_the_same_images(run: Run, store: Path, digits: Path) -> None:
    said = run("models", "compare", "digits/1", "digits@champion")
    assert "* test/accuracy" in said.out
    assert "* model.depth" not in said.out
    assert "--data" in said.err
    said = run("models", "compare", "digits/1", store / "package", "--data", digits, "--output", "json")
    images = said.json["images"]
    assert (images["agreement"], images["difference"], images["p_value"]) == (1.0, 0.0, 1.0)  # the same weights
    assert images["both"] + images["neither"] == images["images"] == 359
    assert sum(count for *_, count in images["per_class"].values()) == 359
    table = run("models", "compare", "digits/1", "digits/2", "--data", digits).out
    assert "no difference is seen" in table
    assert "same answer to 100.0% of the images" in table


def test_pull_then_predict_without_a_registry(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run("models", "pull", "digits", tmp_path / "pulled", "--output", "json")
    assert sorted(said.json["files"]) == ["MODEL_CARD.md", "model.json", "model.safetensors"]
    assert (tmp_path / "pulled" / "MODEL_CARD.md").read_text() == "Sweep 2.\n"
    assert run("models", "pull", "digits", tmp_path / "pulled").code == 2
    monkeypatch.setenv("VITRAY_HOME", str(tmp_path / "nowhere"))
    picture = tmp_path / "a.png"
    picture.write_bytes(encode_png(np.arange(64, dtype=np.uint8).reshape(8, 8)))
    (answer,) = run("predict", tmp_path / "pulled", picture, "--output", "json").json
    assert answer["file"] == str(picture)
    assert len(answer["top"]) == 3
    assert answer["top"][0] == {"label": answer["label"], "probability": answer["probability"]}
    assert not (tmp_path / "nowhere").exists()


def test_predict_answers_the_good_and_names_the_bad(run: Run, store: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encode_png(np.zeros((20, 30, 3), np.uint8)))
    bad.write_bytes(b"this is text")
    said = run("predict", "models:/digits@champion", good, bad, tmp_path / "none.png", "--top", "2")
    assert said.code == 2
    assert str(good) in said.out
    assert f"{bad}: not a JPEG or PNG" in said.err
    assert f"{tmp_path / 'none.png'}: cannot read the file: No such file or directory" in said.err
    assert "2 of 3 images could not be classified" in said.err
    said = run("predict", "models:/digits@champion", good, bad, "--output", "json")
    assert said.code == 2
    assert [(row["label"] is None, row["error"] is None) for row in said.json] == [(False, True), (True, False)]
    said = run("predict", "models:/digits@champion", good, "--top", "1")
    assert said.code == 0
    assert said.out.splitlines()[0].split() == ["file", "class", "probability"]
    assert run("predict", "models:/digits@champion").code == 2
    assert run("predict", "digits@champion", good).err.strip().endswith("did you mean models:/digits@champion?")


def test_ui_of_a_server_is_that_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    said = run("ui", "--no-browser")
    assert (said.code, said.out) == (0, "http://mlflow.example:5000\n")


def test_ui_refuses_a_port_that_is_taken(run: Run, store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = run("ui", "--no-browser", "--port", taken.getsockname()[1])
    assert said.code == 2
    assert "cannot listen" in said.err


@pytest.mark.slow
def test_ui_serves_the_pages_and_leaves_no_process(registered: Path, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    home.mkdir()
    shutil.copy(registered / "mlflow.db", home / "mlflow.db")
    marker = {"VITRAY_UI_TEST": str(tmp_path)}  # inherited by every process that it starts
    ui = subprocess.Popen(
        [sys.executable, "-m", "vitray.cli", "ui", "--no-browser"],
        env={**os.environ, **marker, "VITRAY_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ui.stdout is not None
    url = ui.stdout.readline().strip()
    try:
        assert url.startswith("http://localhost:"), ui.communicate(timeout=10)
        with urllib.request.urlopen(url, timeout=10) as page:
            assert b"MLflow" in page.read()
        with urllib.request.urlopen(f"{url}/api/2.0/mlflow/registered-models/get?name=digits", timeout=10) as answer:
            assert json.load(answer)["registered_model"]["name"] == "digits"
    finally:
        ui.send_signal(signal.SIGINT)
        out, err = ui.communicate(timeout=30)
    assert (ui.returncode, out) == (0, "")
    assert "Ctrl-C" in err
    assert "stopped" in err
    assert not _processes_with(f"VITRAY_UI_TEST={tmp_path}")


def _processes_with(setting: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if setting.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found
