"""``vitray ui``: MLflow's own pages on this store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from types import FrameType

import click

from vitray.cli.output import note
from vitray.errors import ResourceError, VitrayError
from vitray.home import Home
from vitray.masking import public

START_WAIT_S = 90.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Where it listens; a free port (5000 if it is) by default.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 shows it to the whole network.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def ui(port: int | None, host: str, no_browser: bool) -> None:
    """Open MLflow's own pages on this store: runs, charts, artifacts, the registry. Ctrl-C ends it.

    With MLFLOW_TRACKING_URI set to a server, its pages exist already: the address is printed.
    """
    home = Home.find()
    if home.tracking_uri.startswith(("http://", "https://")):
        click.echo(public(home.tracking_uri))
        _browse(home.tracking_uri, no_browser)
        return
    if not home.database.exists() and "MLFLOW_TRACKING_URI" not in os.environ:
        note(f"nothing is tracked yet in {home.root}; the pages will be empty until something is trained")
    port = _port(host, port)
    url = f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0', '::', '::1') else host}:{port}"
    home.root.mkdir(parents=True, exist_ok=True)
    log = home.root / "ui.log"
    with log.open("w") as out:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the server and all its workers.
        server = subprocess.Popen(
            _command(home, host, port), env=_environment(host, port), stdout=out, stderr=out, start_new_session=True
        )
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        _wait_until_up(server, host, port, log)
        click.echo(url)
        note(f"the pages of {public(home.tracking_uri)}; Ctrl-C ends them (server log: {log})")
        _browse(url, no_browser)
        if code := server.wait():
            raise VitrayError(f"the MLflow server ended with code {code}", where=str(log), remedy="see its log")
    except KeyboardInterrupt:
        note("stopped")
    finally:
        _end(server)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _command(home: Home, host: str, port: int) -> list[str]:
    store = ["--backend-store-uri", home.tracking_uri, "--default-artifact-root", home.artifacts.as_uri()]
    return [sys.executable, "-m", "mlflow", "server", *store, "--host", host, "--port", str(port), "--workers", "1"]


def _environment(host: str, port: int) -> dict[str, str]:
    """Light, silent, and answering only to the names it is meant to be called by (MLflow's guard against rebinding)."""
    # An mlflow.py in the current folder is not what is meant; uvicorn, which MLflow starts, has a setting of its own.
    env = {**os.environ, "PYTHONSAFEPATH": "1", "UVICORN_APP_DIR": sysconfig.get_path("purelib")}
    env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if host not in _LOOPBACK and "MLFLOW_SERVER_ALLOWED_HOSTS" not in env:
        names = {"localhost", "127.0.0.1", socket.gethostname(), socket.getfqdn(), *_addresses()}
        names |= set() if host in ("0.0.0.0", "::") else {host}
        env["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(f"{name},{name}:{port}" for name in sorted(names))
    return env


def _addresses() -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    except OSError:
        return set()


def _port(host: str, wanted: int | None) -> int:
    """The wanted port, or 5000, or any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason = ""
    for candidate in (wanted,) if wanted else (5000, 0):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return int(probe.getsockname()[1])
            except OSError as error:
                reason = error.strerror or str(error)
    where = f"{host}:{wanted}" if wanted else host
    raise ResourceError(f"cannot listen: {reason}", where=where, remedy="leave out --port, or check --host")


def _wait_until_up(server: subprocess.Popen[bytes], host: str, port: int, log: Path) -> None:
    address = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    deadline = time.monotonic() + START_WAIT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{address}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
    raise VitrayError(f"the MLflow server did not start: {last[0][:300]}", where=str(log), remedy="see its log")


def _browse(url: str, no_browser: bool) -> None:
    """Only where there is a screen: without one, a text browser would take over the terminal."""
    screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen and not no_browser:
        webbrowser.open(url)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and every process that it started, politely, then by force."""
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            server.poll()
            try:
                os.killpg(server.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)
    server.wait(timeout=5)
