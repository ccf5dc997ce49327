"""What a running training and a running head listen on, and what is said there to those who have no right token."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp

import psutil
import pytest
from attacks import (
    NONE,
    RIGHT,
    SILENT,
    WRONG,
    WRONG_TOKEN,
    Attempt,
    Listener,
    everyone,
    family,
    job_from_a_page,
    job_submission,
    listeners,
    open_to_strangers,
    other_ways_to_send_a_token,
    pages,
    shut_for_friends,
    unknown_port,
)
from malicious import Canary, modules
from processes import kill_all
from ray_head import Head, free_port

from vitray.cli import main

pytestmark = pytest.mark.ray

METRICS = "metrics"


def knock(found: list[Listener], token: str) -> list[Attempt]:
    """At every one of some ports, as all three."""
    with ThreadPoolExecutor(16) as pool:
        tried = pool.map(
            lambda one: everyone(lambda t, who: unknown_port(_host(one), one.port, t, who), token), _distinct(found)
        )
        return [attempt for attempts in tried for attempt in attempts]


def _host(one: Listener) -> str:
    address = one.address.removeprefix("::ffff:")
    return "127.0.0.1" if address in ("::", "0.0.0.0") else address


def _distinct(found: list[Listener]) -> list[Listener]:
    return list({(_host(one), one.port): one for one in found}.values())


@dataclass
class Running:
    """A `vitray sweep run` of somebody, in a folder of somebody else's."""

    folder: Path
    process: subprocess.Popen[bytes]
    secrets: dict[str, str]

    @property
    def user(self) -> Path:
        return self.folder / "user"

    def wait_for_training(self) -> None:
        deadline = time.monotonic() + 120
        while not any(self.folder.glob("home/runs/**/step-*/commit.json")) and time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "said").read_text()
            time.sleep(0.2)

    def stop(self) -> list[psutil.Process]:
        """As Ctrl-C does; returns what outlives it."""
        started = family(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(90)
        _, left = psutil.wait_procs(started, timeout=20)
        kill_all(left)
        return left


@pytest.fixture(scope="module")
def running(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """On two ranks, by somebody who never used Ray, whose files are readable for all, and who has secrets."""
    folder = tmp_path_factory.mktemp("running")
    secrets = {name: f"{name.lower()}-{token_hex(12)}" for name in ("store", "mlflow", "hub", "remote", "header")}
    (folder / "c.yaml").write_text(
        f"name: s\ndata: {{path: {digits}}}\ntrain: {{epochs: 5000}}\ncluster: {{workers: 2, use_gpu: false}}\n"
        "model: {patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}\n"
        "search: {space: {train.seed: [0, 1]}, trials: 2, scheduler: none}\n"
    )
    modules(folder, Canary(folder / "canary"))
    for words in (("init", "-q"), ("remote", "add", "origin", f"https://me:{secrets['remote']}@git.invalid/x.git")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x"],
        cwd=folder,
        check=True,
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "PYTHON"))}
    (folder / "user").mkdir()
    temporary = Path(mkdtemp(prefix="vt-", dir="/tmp"))  # Ray's sockets may have paths of 107 characters
    env |= {
        "HOME": str(folder / "user"),
        "VITRAY_HOME": str(folder / "home"),
        "RAY_TMPDIR": str(temporary),
        "RAY_AUTH_MODE": "disabled",  # as after `ray start` elsewhere; a local Ray has a token all the same
        "AWS_SECRET_ACCESS_KEY": secrets["store"],
        "HF_TOKEN": secrets["hub"],
        "MLFLOW_TRACKING_TOKEN": secrets["header"],
        "MLFLOW_TRACKING_URI": f"http://me:{secrets['mlflow']}@127.0.0.1:{free_port()}",  # a server that is away
    }
    process = subprocess.Popen(
        [Path(sys.executable).parent / "vitray", "sweep", "run", "c.yaml"],
        cwd=folder,
        env=env,
        stdout=(folder / "out").open("wb"),
        stderr=(folder / "said").open("wb"),
        umask=0o022,
        start_new_session=True,
    )
    made = Running(folder, process, secrets)
    yield made
    left = made.stop()
    shutil.rmtree(temporary)
    assert not left


def test_a_local_sweep_is_on_loopback_and_asks_for_its_token(running: Running) -> None:
    running.wait_for_training()
    found = listeners(family(running.process.pid))
    assert {"gcs_server", "raylet"} <= {one.process for one in found}
    assert [one for one in found if one.beyond_loopback] == []

    file = running.user / ".ray" / "auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    tried = knock(found, file.read_text())
    assert [said for said in open_to_strangers(tried) if not said.startswith(METRICS)] == []
    services = {one.door for one in tried if one.let_in and one.who == RIGHT}
    expected = {"NodeInfoGcsService", "NodeManagerService", "ObjectManagerService", "CoreWorkerService", "LogService"}
    assert {f"gRPC {name}" for name in expected} <= services
    # What speaks to nobody is the ranks' own, and on loopback it may. (Refused: a worker that has ended meanwhile.)
    silent = {one.where for one in tried if one.door == SILENT and "refused" not in one.said}
    assert len({one.pid for one in found if f"{_host(one)}:{one.port}" in silent}) <= 2
    assert not (running.folder / "canary").exists(), "modules of the current folder were imported"


def test_secrets_are_written_nowhere(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the environment, of addresses or of the repository: in state, spool, MLflow, output, Ray's logs."""
    running.wait_for_training()
    ray_folder = Path(psutil.Process(running.process.pid).environ()["RAY_TMPDIR"])
    token = (running.user / ".ray" / "auth_token").read_text()
    assert running.stop() == []
    said = (running.folder / "said").read_text()
    assert "vitray sweep resume s" in said, said
    # Bring what waits for the server to a database: its tags, parameters and artifacts are looked through as well.
    monkeypatch.setenv("VITRAY_HOME", str(running.folder / "home"))
    with pytest.raises(SystemExit) as done:
        main(["track", "sync", "--here"])
    assert done.value.code == 0
    with sqlite3.connect(running.folder / "home" / "mlflow.db") as store:
        tags = dict(store.execute("select key, value from tags").fetchall())
    assert tags["mlflow.source.git.repoURL"] == "https://***@git.invalid/x.git"

    planted = {**running.secrets, "token": token}
    searched = [path for root in (running.folder, ray_folder) for path in root.rglob("*") if path.is_file()]
    own = {running.folder / ".git" / "config", running.user / ".ray" / "auth_token"}
    assert {path.name for path in searched} >= {"mlflow.db", "sweep.json", "said", "gcs_server.out", "raylet.out"}
    for path in set(searched) - own:
        content = path.read_bytes()
        assert [name for name, secret in planted.items() if secret.encode() in content] == [], path


def test_a_head_lets_nobody_in_without_its_token(head: Head) -> None:
    wait_for_ray_client(head)
    found = listeners(head.processes())
    tried = knock(found, head.token)
    # Ray's numbers for Prometheus are for everybody who reaches the port: they name machines, no data.
    assert [said for said in open_to_strangers(tried) if not said.startswith(METRICS)] == []
    assert shut_for_friends(tried) == []
    services = {one.door for one in tried if one.let_in}
    assert {f"gRPC {name}" for name in ("NodeInfoGcsService", "NodeManagerService", "RayletDriver")} <= services
    assert all(one.address == "127.0.0.1" for one in found if one.port == head.dashboard_port)


def test_a_head_takes_no_job_and_shows_no_page_without_its_token(head: Head, tmp_path: Path) -> None:
    tried = [
        *(one for t, who in _people(head) for one in pages(head.url, t, who)),
        *(one for t, who in _people(head)[1:] for one in other_ways_to_send_a_token(head.url, t or "", who)),
        *everyone(lambda t, who: job_submission(head.url, t, who, tmp_path / who), head.token),
    ]
    assert open_to_strangers(tried) == []
    assert shut_for_friends(tried) == []
    # A page of somebody else's, in a browser of somebody who has the token: refused even so.
    from_pages = everyone(lambda t, who: job_from_a_page(head.url, t, who, tmp_path / f"page-{who}"), head.token)
    assert [str(one) for one in from_pages if one.let_in] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [RIGHT]


def wait_for_ray_client(head: Head) -> None:
    """It opens seconds after the rest."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for one in listeners(head.processes()):
            if unknown_port(_host(one), one.port, head.token, RIGHT).door == "gRPC RayletDriver":
                return
        time.sleep(0.5)
    raise AssertionError("no Ray Client")


def _people(head: Head) -> list[tuple[str | None, str]]:
    return [(None, NONE), (WRONG_TOKEN, WRONG), (head.token, RIGHT)]
