"""Ray's token: made where there is none, read by its owner alone, and never shown to a cluster that asks for none."""

from __future__ import annotations

import multiprocessing
import os
import stat
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from vitray.cluster.address import check_answers
from vitray.cluster.guard import INSECURE
from vitray.cluster.token import prepare_token, tighten, token_at_hand, token_sent
from vitray.errors import ResourceError


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of somebody who never used Ray; whatever is set in the test is put back."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", INSECURE):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever prepare_token() sets
        monkeypatch.delenv(name)
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_for_its_owner_alone(user: Path) -> None:
    before = os.umask(0)
    try:
        prepare_token()
    finally:
        os.umask(before)
    file = user / ".ray" / "auth_token"
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    assert len(file.read_text()) == 64
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]
    prepare_token()
    assert token_at_hand() == file.read_text()


def test_a_file_of_rays_is_taken_from_the_others_and_kept(user: Path) -> None:
    file = user / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("b" * 64)
    file.chmod(0o644)
    tighten()
    assert (mode(file), file.read_text()) == (0o600, "b" * 64)


def test_an_empty_file_is_filled(user: Path) -> None:
    file = user / ".ray" / "auth_token"
    file.parent.mkdir()
    file.touch(0o644)
    prepare_token()
    assert (mode(file), len(file.read_text())) == (0o600, 64)


def _make(barrier: Any, answers: Any) -> None:
    barrier.wait()
    prepare_token()
    answers.put(token_at_hand())


def test_processes_that_make_one_at_once_agree(user: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(8), context.Queue()
    processes = [context.Process(target=_make, args=(barrier, answers)) for _ in range(8)]
    for process in processes:
        process.start()
    tokens = {answers.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert tokens == {(user / ".ray" / "auth_token").read_text()}


def test_without_a_home_the_token_stays_in_the_process(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in (user / "missing", Path("/proc")):  # not even root writes there
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        prepare_token()
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert not (user / "missing").exists()


def test_what_is_set_is_used(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    with pytest.raises(ResourceError, match="no token in this file"):
        prepare_token()
    named.write_text("c" * 64 + "\n")
    named.chmod(0o640)  # of a group, on purpose perhaps
    prepare_token()
    assert (token_at_hand(), mode(named)) == ("c" * 64, 0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "d" * 64)
    prepare_token()
    assert token_at_hand() == "d" * 64
    assert token_sent() is None, "only where RAY_AUTH_MODE=token"
    assert not (user / ".ray").exists()


class Head(grpc.GenericRpcHandler):
    """A stranger's head: answers whoever asks, and keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.port = 0

    def service(self, details: Any) -> Any:
        self.sent += details.invocation_metadata
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


@pytest.fixture
def unguarded() -> Iterator[Head]:
    head, server = Head(), grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((head,))
    head.port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    yield head
    server.stop(None)


def outside() -> str:
    """An address of this machine that others can reach."""
    found = [a.address for name in psutil.net_if_addrs().values() for a in name if a.family.name == "AF_INET"]
    return next((address for address in found if not address.startswith("127.")), "") or pytest.skip("only loopback")


def test_a_cluster_that_lets_in_everybody_is_refused_and_sees_no_token(
    unguarded: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "e" * 64)
    there = f"{outside()}:{unguarded.port}"
    with pytest.raises(ResourceError, match="asks for no token") as caught:
        check_answers(there)
    assert "RAY_AUTH_MODE=token" in str(caught.value)
    assert "--insecure" in str(caught.value)
    check_answers(f"127.0.0.1:{unguarded.port}")  # nobody else is there
    monkeypatch.setenv(INSECURE, "1")
    check_answers(there)
    assert unguarded.sent
    assert not any("authorization" in key.lower() or "e" * 64 in str(value) for key, value in unguarded.sent)
