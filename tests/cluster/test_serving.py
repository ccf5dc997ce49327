"""``vitray serve`` as it is started by a person: real HTTP, a promotion and a death under load, a browser, Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import psutil
import pytest
from browser import Browser
from processes import kill_all
from served_models import CLASSES, Models, encoded

from vitray.inference import Predictor

pytestmark = [pytest.mark.ray, pytest.mark.slow]
_MARK = "VITRAY_TEST_SERVE"
_START_S, _STOP_S, _CHANGE_S = 120.0, 60.0, 90.0


class Served:
    """A running server, the registry that it follows, and every image's answer by each version."""

    def __init__(self, url: str, models: Models, mark: str, log: Path) -> None:
        self.url, self.models, self._mark, self.log = url, models, mark, log
        self.images = encoded()
        self.expected = {
            label: [
                (p.label, pytest.approx(p.probability, abs=1e-5)) for p in Predictor.load(package).predict(self.images)
            ]
            for label, package in models.packages.items()
        }

    def get(self, route: str) -> str:
        with urllib.request.urlopen(self.url + route, timeout=30) as said:
            return str(said.read().decode())

    def predict(self, number: int) -> dict[str, Any]:
        """Ask for one image; its answer must be the one of the version that says it answered."""
        kind = "image/jpeg" if number % 2 else "image/png"
        request = urllib.request.Request(
            f"{self.url}/predict", self.images[number], {"Content-Type": kind, "Connection": "close"}
        )
        with urllib.request.urlopen(request, timeout=120) as said:
            answer: dict[str, Any] = json.load(said)
        self.check(number, answer)
        return answer

    def check(self, number: int, answer: dict[str, Any]) -> None:
        (row,) = answer["predictions"]
        assert (row["label"], row["probability"]) == self.expected[answer["model"]][number]

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def metric(self, name: str) -> float:
        return next(float(line.split()[-1]) for line in self.get("/metrics").splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """``vitray serve models:/signs@champion``; at the end Ctrl-C must end all of it."""
    folder = tmp_path_factory.mktemp("serve")
    models = Models(folder / "home")
    models.add(alias="champion")
    models.add()
    mark = secrets.token_hex(8)
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "VITRAY_", "MLFLOW_"))}
    command = [
        sys.executable,
        "-m",
        "vitray.cli",
        "serve",
        "models:/signs@champion",
        "--port",
        "0",
        "--reload-s",
        "0.2",
    ]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**ours, "VITRAY_HOME": str(models.home), _MARK: mark},
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_S
    while not (url := (folder / "out").read_text().strip()):
        running = process.poll() is None and time.monotonic() < deadline
        assert running, (folder / "err").read_text()
        time.sleep(0.1)
    found = Served(url, models, mark, folder / "err")
    try:
        yield found
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all that belongs to the command
        assert process.wait(_STOP_S) == 0
        _, left = psutil.wait_procs(found.processes(), timeout=15)
        assert left == []
        said = found.log.read_text()
        assert said.splitlines()[-1] == "stopped"
        assert "Traceback" not in said
        # What the person at the terminal reads: the few lines that this command prints, and none of Ray's.
        assert len(said.splitlines()) < 20
        with pytest.raises(urllib.error.URLError):
            found.get("/healthz")
    finally:
        kill_all(found.processes())
        process.wait()


@pytest.fixture
def champion_is_1(served: Served) -> None:
    served.models.promote(1)
    _until(lambda: json.loads(served.get("/readyz"))["model"] == "signs/1")


def _until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _CHANGE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def load(served: Served, clients: int) -> Iterator[list[list[str]]]:
    """Clients that ask without a pause while the block runs: every answer must be right. Yields the versions that
    answered each of them, in order."""
    answered: list[list[str]] = [[] for _ in range(clients)]
    enough = threading.Event()

    def client(number: int) -> None:
        while not enough.is_set():
            answered[number].append(served.predict(number % len(served.images))["model"])

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(client, number) for number in range(clients)]
        try:
            yield answered
        finally:
            enough.set()
        for one in asking:
            one.result()


def _more(answered: list[list[str]], count: int) -> None:
    """Wait until every client has had as many answers more."""
    before = [len(one) for one in answered]
    _until(lambda: all(len(one) >= had + count for one, had in zip(answered, before, strict=True)))


@pytest.mark.usefixtures("champion_is_1")
def test_requests_of_one_moment_share_batches_and_each_gets_its_own_answer(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    batches, images = served.metric("vitray_batch_images_count"), served.metric("vitray_batch_images_sum")
    numbers = [i % len(served.images) for i in range(48)]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in numbers]
        for number, connection in zip(numbers, sockets, strict=True):  # all are sent before any answer is read
            image = served.images[number]
            head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nConnection: close\r\n"
            connection.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image)
        for number, connection in zip(numbers, sockets, strict=True):
            said = stack.enter_context(connection.makefile("rb")).read()
            served.check(number, json.loads(said.partition(b"\r\n\r\n")[2]))
    assert served.metric("vitray_batch_images_sum") - images == len(numbers)
    assert served.metric("vitray_batch_images_count") - batches < len(numbers)


@pytest.mark.usefixtures("champion_is_1")
def test_a_promotion_under_load_fails_no_request(served: Served) -> None:
    with load(served, 4) as answered:
        _more(answered, 5)
        served.models.promote(2)
        _until(lambda: json.loads(served.get("/model"))["version"] == 2)
        _more(answered, 10)
    for one in answered:
        change = one.index("signs/2")
        assert change >= 5
        assert set(one[:change]) == {"signs/1"}
        assert set(one[change:]) == {"signs/2"}
        assert len(one) - change >= 9  # of the ten, the first may have been asked before
    assert "signs/2 answers from now on (before: signs/1" in served.log.read_text()


@pytest.mark.usefixtures("champion_is_1")
def test_a_replica_that_is_killed_costs_time_and_no_answer(served: Served) -> None:
    with load(served, 4) as answered:
        _more(answered, 5)
        (replica,) = _replicas(served)
        replica.kill()
        replica.wait()
        _more(answered, 10)
    assert {model for one in answered for model in one} == {"signs/1"}
    assert json.loads(served.get("/readyz"))["ready"]


def test_no_port_beyond_loopback_answers_without_the_token(served: Served) -> None:
    """Replicas listen on every interface for calls whose content is pickled."""
    (replica,) = _replicas(served)
    ports = [c.laddr.port for c in replica.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    refusals = []
    for port in ports:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest", request_serializer=bytes)
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=10)
            refusals.append(refused.value.code())
    assert grpc.StatusCode.UNAUTHENTICATED in refusals  # Serve's; Ray's own may not even know the name of the call
    assert set(refusals) <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}
    listening = [c.laddr.ip for p in served.processes() if "vitray.cli" in p.cmdline() for c in _listening(p, served)]
    assert listening == ["127.0.0.1"]


def _listening(process: psutil.Process, served: Served) -> list[Any]:
    """Where a process takes HTTP."""
    port = int(served.url.rpartition(":")[2])
    connections = process.net_connections("tcp")
    return [c for c in connections if c.status == psutil.CONN_LISTEN and c.laddr.port == port]


def _replicas(served: Served) -> list[psutil.Process]:
    return [p for p in served.processes() if p.cmdline() and p.cmdline()[0].startswith("ray::ServeReplica")]


@pytest.mark.usefixtures("champion_is_1")
def test_the_page_shows_the_classes_and_the_attention_map(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "<b onclick=x>a.png"
    file.write_bytes(served.images[0])
    other = tmp_path / "notes.txt"
    other.write_text("no image")
    with Browser(tmp_path / "profile") as browser:
        for width, dark in ((1280, False), (390, True)):
            browser.open(served.url, width=width, dark=dark)
            _choose(browser, file, other)
            assert browser.run("document.querySelector('h1').textContent") == "signs/1champion"
            assert "test accuracy 75.00 %" in browser.run("document.querySelector('#facts').textContent")
            shown = browser.run("[...document.querySelectorAll('ol li span')].map(e => e.textContent)")
            assert shown[0] == served.expected["signs/1"][0][0]
            assert sorted(shown) == sorted(CLASSES)
            shares = browser.run("[...document.querySelectorAll('ol li div i')].map(e => parseFloat(e.style.width))")
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) == pytest.approx(100, abs=0.01)
            _check_map(browser)
            # Names are text: nothing of them ran, and nothing of them became an element.
            assert browser.run("document.title") == "vitray serve"
            assert browser.run("document.querySelector('.card h2 span').textContent") == file.name
            assert browser.run("document.querySelectorAll('#cards b, #cards img').length") == 2  # the two pictures
            assert "not a PNG or JPEG" in browser.run("document.querySelector('.error').textContent")
            assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.complaints == []
        assert [u for u in browser.requests if not u.startswith((served.url, "data:"))] == []


def _choose(browser: Browser, *files: Path) -> None:
    """Choose files as a person does, and wait for as many cards."""
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)
    _until(lambda: browser.run("document.querySelectorAll('.card ol, .card .error').length") == len(files))


def _check_map(browser: Browser) -> None:
    """A colour for each patch, from nothing to yellow, laid exactly over the image; another block has another map."""
    pixels = "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 3, 2).data]"
    rollout = browser.run(pixels)
    alphas, greens = rollout[3::4], rollout[1::4]
    assert min(alphas) == 0
    assert max(greens) == 255
    assert len(set(alphas)) > 2
    boxes = browser.run(
        "['figure .under', 'canvas'].map(s => document.querySelector(s).getBoundingClientRect())"
        ".map(b => [b.x, b.y, b.width, b.height])"
    )
    assert boxes[0] == pytest.approx(boxes[1], abs=0.5)
    assert boxes[0][2] / boxes[0][3] == pytest.approx(12 / 8, abs=0.02)
    browser.run(
        "(() => { const s = document.querySelector('#map'); s.value = '1'; s.dispatchEvent(new Event('change')) })()"
    )
    assert browser.run(pixels) != rollout
