"""What a running training and a running head listen on, and what is said there to those who have no right token."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    ray_client,
    shut_for_friends,
    unknown_port,
)
from ray_head import Head

pytestmark = pytest.mark.ray

# Without a password by their nature: torch's meeting point and gloo's links between ranks, and Prometheus' numbers.
_OF_RANKS = "ray::RayTrainWorker"
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


@pytest.fixture
def training(tmp_path: Path, digits: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`vitray train` on two ranks, by somebody who never used Ray and whose files are readable for all."""
    (tmp_path / "c.yaml").write_text(
        f"data: {{path: {digits}}}\ntrain: {{epochs: 5000}}\ncluster: {{workers: 2, use_gpu: false}}\n"
        "model: {patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # As after `ray start` elsewhere: whether another cluster asks for tokens must not matter here.
    env |= {"HOME": str(tmp_path / "user"), "RAY_AUTH_MODE": "disabled"}
    (tmp_path / "user").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "vitray.cli", "train", "c.yaml"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "said").open("wb"),
        umask=0o022,
        start_new_session=True,
    )
    yield process
    started = family(process.pid)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    _, left = psutil.wait_procs(started, timeout=20)
    for one in left:
        one.kill()
    assert not left


def test_a_local_training_is_on_loopback_and_asks_for_its_token(
    training: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    deadline = time.monotonic() + 90
    while "epoch 2/" not in (tmp_path / "said").read_text() and time.monotonic() < deadline:
        assert training.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.2)
    found = listeners(family(training.pid))
    assert {"gcs_server", "raylet"} <= {one.process for one in found}
    assert any(one.process.startswith(_OF_RANKS) for one in found)
    assert [one for one in found if one.beyond_loopback] == []

    file = tmp_path / "user" / ".ray" / "auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    tried = knock(found, file.read_text())
    assert [said for said in open_to_strangers(tried) if not said.startswith(METRICS)] == []
    services = {one.door for one in tried if one.let_in and one.who == RIGHT}
    expected = {"NodeInfoGcsService", "NodeManagerService", "ObjectManagerService", "CoreWorkerService", "LogService"}
    assert {f"gRPC {name}" for name in expected} <= services
    # What speaks to nobody is the ranks' own, and on loopback it may.
    silent = {one.where for one in tried if one.door == SILENT}
    assert len({one.pid for one in found if f"{_host(one)}:{one.port}" in silent}) <= 2


def test_a_head_lets_nobody_in_without_its_token(head: Head) -> None:
    ray_client_port(head)  # the last one to open
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


def test_ray_client_wants_the_token(head: Head, tmp_path: Path) -> None:
    """The real client, let in; that its port refuses strangers, the knocking above shows in less time."""
    address, port = ray_client_port(head)
    assert not unknown_port(address, port, WRONG_TOKEN, WRONG).let_in
    assert ray_client(address, port, head.token, RIGHT, tmp_path / "canary").let_in
    assert (tmp_path / "canary").exists()


def ray_client_port(head: Head) -> tuple[str, int]:
    """Where a head's Ray Client is, which opens seconds after the rest."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for one in listeners(head.processes()):
            if unknown_port(_host(one), one.port, head.token, RIGHT).door == "gRPC RayletDriver":
                return _host(one), one.port
        time.sleep(0.5)
    raise AssertionError("no Ray Client")


def _people(head: Head) -> list[tuple[str | None, str]]:
    return [(None, NONE), (WRONG_TOKEN, WRONG), (head.token, RIGHT)]
