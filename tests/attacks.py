"""Trying the doors: what listens, and what is said there to no credentials, wrong ones, and the right ones.

The right ones are tried too: an attempt that fails for another reason would prove nothing. Also a script, so that it
can run where the doors are (another host, a network namespace): ``python tests/attacks.py --help``; it prints JSON.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import psutil

NONE, WRONG, RIGHT = "none", "wrong", "right"  # whose credentials an attempt carries
WRONG_TOKEN = "0" * 64
FOREIGN = "evil.example"
SILENT = "silent"  # the door of a port that speaks neither gRPC nor HTTP
_WAIT_S = 3.0
_FRIEND_WAIT_S = 5.0  # a busy machine must not make a right token look like a wrong one
# Harmless calls, at least one for each of the services that Ray's processes offer, and what to send.
_CALLS = {
    "NodeInfoGcsService/GetAllNodeInfo": b"",
    "JobInfoGcsService/GetAllJobInfo": b"",
    "InternalKVGcsService/InternalKVKeys": b"",
    "NodeManagerService/GetNodeStats": b"",
    "NodeManagerService/GetSystemConfig": b"",
    "ObjectManagerService/Push": b"",
    "CoreWorkerService/GetCoreWorkerStats": b"",
    "LogService/ListLogs": b"",
    "ReporterService/GetTraceback": b"",
    "RayletDriver/ClusterInfo": b"\x08\x06",  # Ray Client's PING
}
_CLOSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_NO_GRPC = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# What the dashboard and the agents of the nodes tell, by path. The last is of a node's agent alone.
_PAGES = (
    "/api/jobs/",
    "/nodes?view=summary",
    "/api/v0/nodes",
    "/api/cluster_status",
    "/api/v0/logs",
    "/api/job_agent/jobs/",
)


@dataclass(frozen=True)
class Listener:
    """A TCP socket that takes connections."""

    address: str
    port: int
    pid: int
    process: str

    @property
    def beyond_loopback(self) -> bool:
        return self.address.removeprefix("::ffff:") not in ("127.0.0.1", "::1")


def listeners(processes: Iterable[psutil.Process]) -> list[Listener]:
    """The listening sockets of some processes, each in its own network namespace."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            name = process.name()
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found.append(Listener(socket.laddr.ip, socket.laddr.port, process.pid, name))
    return found


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass(frozen=True)
class Attempt:
    """One knock. ``let_in``: whoever answered did what was asked, or would have if it had been asked properly."""

    door: str
    where: str
    who: str
    let_in: bool
    said: str

    def __str__(self) -> str:
        result = "OPEN" if self.let_in else "shut"
        return f"{self.door} at {self.where} with {self.who} credentials: {result} ({self.said})"


def grpc_port(host: str, port: int, token: str | None, who: str) -> Attempt | None:
    """Asks a port for every service of Ray's. None: it does not speak gRPC, or knows none of them."""
    answers: dict[str, grpc.StatusCode | None] = {}
    metadata = [("authorization", f"Bearer {token}")] if token else None
    channel = grpc.insecure_channel(f"{_bracketed(host)}:{port}", options=[("grpc.enable_http_proxy", 0)])
    with channel:
        for name, request in _CALLS.items():
            call = channel.unary_unary(f"/ray.rpc.{name}", request_serializer=bytes, response_deserializer=bytes)
            try:
                call(request, timeout=_FRIEND_WAIT_S if who == RIGHT else _WAIT_S, metadata=metadata)
                answers[name] = None
            except grpc.RpcError as error:
                code = error.code()
                if code in _NO_GRPC:
                    return None
                if code is not grpc.StatusCode.UNIMPLEMENTED:
                    answers[name] = code
    if not answers:
        return None
    open_ones = [name for name, code in answers.items() if code not in _CLOSED]
    said = ", ".join(f"{name} {'answered' if code is None else code.name}" for name, code in answers.items())
    return Attempt(f"gRPC {next(iter(answers)).partition('/')[0]}", f"{host}:{port}", who, bool(open_ones), said)


def http(
    method: str, url: str, headers: Mapping[str, str] | None = None, body: Any = None, wait_s: float = _WAIT_S
) -> tuple[int, str]:
    """Status and beginning of the answer; 0 where nobody speaks HTTP."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    if data is not None:
        request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=wait_s) as answer:
            return answer.status, answer.read(2000).decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read(2000).decode(errors="replace")
    except (OSError, ValueError) as error:
        return 0, str(error)
    except Exception as error:  # http.client's, of a peer that answers something else
        return 0, repr(error)


def http_attempt(
    door: str,
    who: str,
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    friend_wait_s: float = _FRIEND_WAIT_S,
) -> Attempt:
    """Let in is whoever gets another answer than 401, 403, or a refusal to speak with browsers (405)."""
    status, text = http(method, url, headers, body, friend_wait_s if who == RIGHT else _WAIT_S)
    said = f"HTTP {status} {text[:60]!r}"
    return Attempt(door, urlsplit(url).netloc, who, status not in (0, 401, 403, 405), said)


def unknown_port(host: str, port: int, token: str | None, who: str) -> Attempt:
    """Whatever listens there: gRPC, a page, metrics. What says nothing that we understand is shut, for friends too."""
    if (said := grpc_port(host, port, token, who)) is not None:
        return said
    url = f"http://{_bracketed(host)}:{port}"
    status, text = http("GET", f"{url}/metrics", _bearer(token))
    if status == 0:
        return Attempt(SILENT, f"{host}:{port}", who, False, text)
    if status == 200 and "# TYPE" in text:
        return Attempt("metrics", f"{host}:{port}", who, True, "HTTP 200, Prometheus")
    return http_attempt("HTTP", who, "GET", f"{url}/api/jobs/", _bearer(token))  # "/" is the dashboard's empty frame


def pages(url: str, token: str | None, who: str) -> list[Attempt]:
    """What the dashboard, or a node's agent, shows."""
    found = [http_attempt(f"page {path}", who, "GET", url + path, _bearer(token), None, 60.0) for path in _PAGES]
    return [one for one in found if "HTTP 404" not in one.said]


def job_list(url: str, token: str | None, who: str) -> Attempt:
    return http_attempt("job list", who, "GET", f"{url}/api/jobs/", _bearer(token))


def job_submission(url: str, token: str | None, who: str, canary: Path) -> Attempt:
    """Submits ``touch CANARY``. Let in: it was taken, or the canary is there."""
    status, text = http("POST", f"{url}/api/jobs/", _bearer(token), _job(canary), 60)  # the first one starts an actor
    said = Attempt(
        "job submission", urlsplit(url).netloc, who, status not in (0, 401, 403), f"HTTP {status} {text[:60]!r}"
    )
    if said.let_in:
        deadline = time.monotonic() + 60
        while not canary.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        return Attempt(said.door, said.where, who, True, f"{said.said}; canary: {canary.exists()}")
    return said


def job_from_a_page(url: str, token: str | None, who: str, canary: Path) -> Attempt:
    """The same as a browser would send it for a web page of somebody else's."""
    headers = {
        **_bearer(token),
        "Origin": f"http://{FOREIGN}",
        "User-Agent": "Mozilla/5.0",
        "Sec-Fetch-Site": "cross-site",
    }
    return http_attempt("job from a foreign page", who, "POST", f"{url}/api/jobs/", headers, _job(canary))


def other_ways_to_send_a_token(url: str, token: str, who: str) -> list[Attempt]:
    """Ray takes it in three places."""
    ways = {"X-Ray-Authorization": f"Bearer {token}", "Cookie": f"ray-authentication-token={token}"}
    return [http_attempt(f"job list by {k}", who, "GET", f"{url}/api/jobs/", {k: v}) for k, v in ways.items()]


def ray_client(host: str, port: int, token: str | None, who: str, canary: Path) -> Attempt:
    """Ray Client, as its users have it, in a process of its own: touches the canary on the cluster."""
    code = (
        "import pathlib, ray, ray.util, sys\nray.util.connect(sys.argv[1], connection_retries=1)\n"
        "ray.get(ray.remote(num_cpus=0)(lambda: pathlib.Path(sys.argv[2]).touch()).remote())"
    ).replace("sys.argv[2]", repr(str(canary)))
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", code, f"{_bracketed(host)}:{port}"],
        env=env,
        cwd=canary.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = (done.stderr.strip().splitlines() or ["done"])[-1][:100]
    return Attempt("Ray Client", f"{host}:{port}", who, done.returncode == 0 or canary.exists(), said)


def mlflow_attempts(
    url: str, login: tuple[str, str] | None, who: str, *, host: str | None = None, origin: str | None = None
) -> list[Attempt]:
    """MLflow's REST API and artifacts: read, write; with another Host or Origin header if given."""
    headers = {"Authorization": "Basic " + base64.b64encode(":".join(login).encode()).decode()} if login else {}
    headers |= ({"Host": host} if host else {}) | ({"Origin": origin} if origin else {})
    suffix = f" of Host {host}" if host else f" of Origin {origin}" if origin else ""

    def ask(door: str, method: str, path: str, body: Any = None) -> Attempt:
        return http_attempt(f"MLflow {door}{suffix}", who, method, url + path, headers, body, 60.0)

    api = "/api/2.0/mlflow"
    return [
        ask("search", "POST", f"{api}/experiments/search", {"max_results": 1}),
        ask("search for pages", "POST", "/ajax-api/2.0/mlflow/experiments/search", {"max_results": 1}),
        ask("write", "POST", f"{api}/experiments/create", {"name": f"attack-{who}-{time.time_ns()}"}),
        ask("models", "GET", f"{api}/registered-models/search?max_results=1"),
        ask("artifacts", "GET", "/api/2.0/mlflow-artifacts/artifacts"),
    ]


def everyone(attack: Callable[[str | None, str], Attempt | None], right: str) -> list[Attempt]:
    """An attack with no token, a wrong one and the right one."""
    people = ((None, NONE), (WRONG_TOKEN, WRONG), (right, RIGHT))
    with ThreadPoolExecutor(len(people)) as pool:
        return [said for said in pool.map(lambda one: attack(*one), people) if said is not None]


def open_to_strangers(attempts: Sequence[Attempt]) -> list[str]:
    return [str(one) for one in attempts if one.let_in and one.who != RIGHT]


def shut_for_friends(attempts: Sequence[Attempt]) -> list[str]:
    """Attempts that prove nothing, since right credentials do not help either."""
    return [str(one) for one in attempts if not one.let_in and one.who == RIGHT]


def _job(canary: Path) -> dict[str, Any]:
    return {"entrypoint": f"touch {canary}"}


def _bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _script() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listeners", type=int, nargs="*", default=[], help="processes; with all that they started")
    parser.add_argument("--ports", nargs="*", default=[], metavar="HOST:PORT", help="to knock at, whatever is there")
    parser.add_argument("--dashboard", metavar="URL", help="pages and job list")
    parser.add_argument("--submit", type=Path, metavar="FILE", help="try to run `touch FILE` by the dashboard")
    parser.add_argument("--client", metavar="HOST:PORT", help="Ray Client; wants --submit too")
    parser.add_argument("--mlflow", metavar="URL", help="and ATTACK_MLFLOW=USER:PASSWORD, where it has users")
    parser.epilog = "The right token is in ATTACK_TOKEN."
    given = parser.parse_args()
    token = os.environ.get("ATTACK_TOKEN", "")
    tried: list[Attempt] = []
    for where in given.ports:
        host, _, port = where.rpartition(":")
        tried += everyone(lambda t, who, h=host, p=int(port): unknown_port(h, p, t, who), token)
    if given.dashboard:
        for t, who in ((None, NONE), (WRONG_TOKEN, WRONG), (token, RIGHT)):
            tried += pages(given.dashboard, t, who)
        for t, who in ((WRONG_TOKEN, WRONG), (token, RIGHT)):
            tried += other_ways_to_send_a_token(given.dashboard, t, who)
    if given.dashboard and given.submit:
        tried += everyone(
            lambda t, who: job_submission(given.dashboard, t, who, given.submit.with_suffix(f".{who}")), token
        )
        tried += everyone(
            lambda t, who: job_from_a_page(given.dashboard, t, who, given.submit.with_suffix(f".page-{who}")), token
        )
    if given.client and given.submit:
        host, _, port = given.client.rpartition(":")
        tried += everyone(
            lambda t, who: ray_client(host, int(port), t, who, given.submit.with_suffix(f".client-{who}")), token
        )
    if given.mlflow:
        user, _, password = os.environ.get("ATTACK_MLFLOW", "").partition(":")
        for login, who in (
            (None, NONE),
            ((user or "admin", "wrong"), WRONG),
            ((user, password) if user else None, RIGHT),
        ):
            tried += mlflow_attempts(given.mlflow, login, who)
        login = (user, password) if user else None
        tried += mlflow_attempts(given.mlflow, login, "right, foreign Host", host=FOREIGN)
        tried += mlflow_attempts(given.mlflow, login, "right, foreign Origin", origin=f"http://{FOREIGN}")
    found = [one for pid in given.listeners for one in listeners(family(pid))]
    print(json.dumps({"listeners": [asdict(one) for one in found], "attempts": [asdict(one) for one in tried]}))  # noqa: T201


if __name__ == "__main__":
    _script()
