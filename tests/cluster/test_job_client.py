"""Whom `vitray jobs` talks to, and what it says where nobody, somebody else or an open cluster answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from vitray.cluster.guard import on_loopback
from vitray.cluster.job_client import find_dashboard
from vitray.errors import VitrayError

TOKEN = "planted-token-" * 4
VERSION = '{"ray_version": "2.60.0", "session_name": "session_x"}'


@contextmanager
def server(status: int, body: str = "", host: str = "127.0.0.1", **headers: str) -> Iterator[tuple[str, list[str]]]:
    """A server that gives one answer; its address, and the tokens that it was sent."""
    tokens: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers.get("Authorization", ""))
            self.send_response(status if len(tokens) < 2 or status != 401 else 200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer((host, 0), Handler) as running:
        thread = Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://{host}:{running.server_port}", tokens
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "VITRAY_INSECURE"):
        monkeypatch.delenv(name, raising=False)


def refusal(address: str | None) -> str:
    with pytest.raises(VitrayError) as refused:
        find_dashboard(address)
    assert refused.value.exit_code == 2
    assert "planted" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("foo", "is not the address of a cluster that takes jobs"),
        ("head:0", "is not the address"),
        ("http://", "is not the address"),
        ("ray://head:10001", "jobs are not submitted through ray://"),
        ("http://me:planted@head:8265", "a dashboard takes a token"),
        ("http://host.invalid:8265", "no Ray dashboard answers"),
    ],
)
def test_what_is_no_address_is_said_at_once(address: str, says: str) -> None:
    assert says in refusal(address)


def test_nobody_there() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert "no Ray dashboard answers: Connection refused" in refusal(f"http://127.0.0.1:{port}")
        assert "no Ray dashboard answers: Connection refused" in refusal(f"127.0.0.1:{port}")


@pytest.mark.parametrize(("status", "body"), [(200, "<html>"), (200, "[]"), (404, ""), (500, "oops"), (200, "{}")])
def test_another_server_is_told_apart_and_sees_no_token(status: int, body: str) -> None:
    with server(status, body) as (url, tokens):
        assert "it is no Ray dashboard" in refusal(url)
    assert set(tokens) == {""}


def test_a_redirect_is_not_followed() -> None:
    with server(200, VERSION) as (elsewhere, there), server(302, Location=elsewhere) as (url, _):
        assert "it is no Ray dashboard" in refusal(url)
    assert there == []


def test_encryption_that_is_not_there() -> None:
    with server(200, VERSION) as (url, _):
        assert "the encrypted connection failed" in refusal(url.replace("http", "https"))


def test_a_token_is_sent_only_to_who_wants_one() -> None:
    with server(200, VERSION) as (url, tokens):
        assert find_dashboard(url).token is None
    assert tokens == [""]
    with server(401, VERSION) as (url, tokens):
        assert find_dashboard(f"{url}/").token == TOKEN
        assert tokens == ["", f"Bearer {TOKEN}"]
        assert "planted" not in repr(find_dashboard(url))


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(200, VERSION) as (url, _):
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", url)
        assert find_dashboard().url == url
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
        monkeypatch.setenv("RAY_ADDRESS", url)
        assert find_dashboard().url == url


def test_an_open_cluster_beyond_this_machine_is_refused_unless_insecure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (a.address for each in psutil.net_if_addrs().values() for a in each if a.family is socket.AF_INET)
    beyond = next((address for address in found if not on_loopback(address)), None)
    if beyond is None:
        pytest.skip("this machine has no address but loopback")
    monkeypatch.setenv("no_proxy", beyond)
    with server(200, VERSION, host=beyond) as (url, _):
        assert "asks for no token" in refusal(url)
        monkeypatch.setenv("VITRAY_INSECURE", "1")
        assert find_dashboard(url).url == url
