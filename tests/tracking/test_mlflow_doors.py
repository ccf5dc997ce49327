"""MLflow's own doors: the pages of `vitray ui` on loopback and for no foreign page, and a server with users."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from attacks import FOREIGN, NONE, RIGHT, WRONG, family, listeners, mlflow_attempts, open_to_strangers
from malicious import Canary, modules
from mlflow_server import ADMIN, ADMIN_PASSWORD, MlflowServer, free_port

pytestmark = pytest.mark.slow


def test_the_pages_are_on_loopback_and_answer_no_foreign_name_or_page(home: Path, tmp_path: Path) -> None:
    canary = Canary(tmp_path / "canary")
    modules(tmp_path, canary)  # a folder of somebody else's
    env = {**os.environ, "VITRAY_HOME": str(home)}
    port = free_port()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "vitray", "ui", "--no-browser", "--port", str(port)],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url == f"http://localhost:{port}"
        started = family(process.pid)
        found = listeners(started)
        assert port in {one.port for one in found}
        assert [one for one in found if one.beyond_loopback] == []
        assert all(one.let_in for one in mlflow_attempts(url, None, RIGHT) if one.door != "MLflow artifacts")
        # As a page that a browser was led to by rebinding its name, and as one that asks across origins.
        assert [str(one) for one in mlflow_attempts(url, None, RIGHT, host=FOREIGN) if one.let_in] == []
        posted = mlflow_attempts(url, None, RIGHT, origin=f"http://{FOREIGN}")
        assert [
            str(one) for one in posted if one.let_in and one.door.startswith(("MLflow write", "MLflow search"))
        ] == []
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert not canary.fired, "modules of the current folder were imported"


def test_a_server_with_users_lets_nobody_else_in(home: Path) -> None:
    server = MlflowServer(home, f"sqlite:///{home}/mlflow.db", users=f"sqlite:///{home}/users.db")
    try:
        server.start()
        assert [one for one in listeners(server.processes) if one.beyond_loopback] == []
        tried = [
            *mlflow_attempts(server.uri, None, NONE),
            *mlflow_attempts(server.uri, (ADMIN, "wrong"), WRONG),
            *mlflow_attempts(server.uri, (ADMIN, ADMIN_PASSWORD), RIGHT),
        ]
        assert open_to_strangers(tried) == []
        assert [str(one) for one in tried if one.who == RIGHT and not one.let_in] == []
        foreign = mlflow_attempts(server.uri, (ADMIN, ADMIN_PASSWORD), RIGHT, host=FOREIGN)
        assert [str(one) for one in foreign if one.let_in] == []
    finally:
        server.kill()
