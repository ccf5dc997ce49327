"""The doors of docker/compose.yaml's cluster: what listens in each container, and what it says to strangers.

Strangers are another container on the cluster's network, and whoever uses the ports on this machine's loopback.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from attacks import (
    NONE,
    RIGHT,
    WRONG,
    WRONG_TOKEN,
    Attempt,
    everyone,
    job_from_a_page,
    job_submission,
    mlflow_attempts,
    open_to_strangers,
    other_ways_to_send_a_token,
    pages,
    shut_for_friends,
)
from container import Container
from engine import Engine
from laptop import Laptop

pytestmark = pytest.mark.ray

# Prometheus' numbers of nodes, autoscaler and dashboard: they name machines and their load, to all on the network.
METRICS = {6383, 44217, 44227}
NODE = {6380, 6381, 6382, 6383, 6384, 52365}
EXPECTED = {
    "ray-head": NODE | {6379, 8265, 10001, 44217, 44227},
    "ray-worker": NODE,
    "mlflow": {5000},
    "postgres": {5432},
}
WORKERS = range(10100, 11000)  # of Ray's worker processes, which the file names too
FOREIGN_PAGE = "http://evil.example"
FOREIGN = ("right, foreign Host", "right, foreign Origin")


@pytest.fixture(scope="module")
def stranger(engine: Engine) -> Container:
    return engine.stranger("cluster")


def test_what_listens_is_what_is_expected(engine: Engine) -> None:
    for service, ports in EXPECTED.items():
        for container in engine.of(service):
            if container.running():
                listening = engine.networks.listening(container.namespace)
                beyond = {port for address, port in listening if address not in ("127.0.0.1", "::1")}
                assert {port for port in beyond if port not in WORKERS} == ports, container.name
    here = {
        (one.laddr.ip, one.laddr.port) for one in psutil.Process().net_connections("inet") if one.status == "LISTEN"
    }
    published = {("127.0.0.1", int(engine.variables[name])) for name in ("RAY_DASHBOARD_PORT", "MLFLOW_PORT")}
    assert published <= here
    assert not {address for address, port in here if port in {p for _, p in published}} - {"127.0.0.1"}


def test_a_stranger_on_the_network_is_let_in_nowhere(engine: Engine, stranger: Container) -> None:
    ports = [f"ray-head:{port}" for port in sorted(EXPECTED["ray-head"] - {8265})]
    ports += [f"{engine.of('ray-worker')[0].addresses['cluster']}:{port}" for port in sorted(NODE)]
    tried = attack(engine, stranger, "--ports", *ports)
    tried += attack(engine, stranger, "--dashboard", "http://ray-head:8265", "--submit", "/vitray/canary")
    metrics = {one.where for one in tried if one.door == "metrics"}
    assert {int(where.rpartition(":")[2]) for where in metrics} == METRICS
    from_pages = [one for one in tried if one.door == "job from a foreign page"]
    assert len(from_pages) == 3
    assert not any(one.let_in for one in from_pages)
    rest = [one for one in tried if one.door != "metrics" and one not in from_pages]
    assert open_to_strangers(rest) == []
    assert shut_for_friends(rest) == []
    assert sorted(path.name for path in engine.volume("vitray").glob("canary*")) == [f"canary.{RIGHT}"]


def test_mlflow_and_its_database_are_shut(engine: Engine, stranger: Container, tmp_path: Path) -> None:
    laptop = Laptop(engine, tmp_path)
    login = ("vitray", engine.secret("mlflow_user_password"))
    tried = attack(engine, stranger, "--mlflow", "http://mlflow:5000")
    for who, words in ((NONE, None), (WRONG, ("vitray", "wrong")), (WRONG, ("admin", "wrong")), (RIGHT, login)):
        tried += mlflow_attempts(laptop.mlflow, words, who)
    tried += mlflow_attempts(laptop.mlflow, login, FOREIGN[0], host="evil.example")
    tried += mlflow_attempts(laptop.mlflow, login, FOREIGN[1], origin=FOREIGN_PAGE)
    # A browser with a login may be made to ask for a page, and is not told that the foreign one may see it.
    reads = [one for one in tried if one.who == FOREIGN[1] and ("models" in one.door or "artifacts" in one.door)]
    assert open_to_strangers([one for one in tried if one not in reads]) == []
    assert shut_for_friends(tried) == []
    request = urllib.request.Request(f"{laptop.mlflow}/api/2.0/mlflow/registered-models/search?max_results=1")
    request.add_header("Origin", FOREIGN_PAGE)
    request.add_header("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers

    # PostgreSQL is on a network of its own; who shares it wants the password.
    connect = ["psql", "--username=mlflow", "--no-password", "mlflow", "--command=select 1"]
    path = engine.of("postgres")[0].spec.environment["PATH"]
    address = engine.of("postgres")[0].addresses["database"]
    unreachable = stranger.run(*connect, f"--host={address}", PATH=path, PGCONNECT_TIMEOUT="2")
    assert unreachable.returncode != 0
    assert "could not translate" in stranger.run(*connect, "--host=postgres", PATH=path).stdout
    inside = engine.stranger("database")
    for password, said in (("wrong", "password authentication failed"), ("", "no password supplied")):
        refused = inside.run(*connect, "--host=postgres", PATH=path, PGPASSWORD=password)
        assert refused.returncode != 0
        assert said in refused.stdout
    right = inside.run(*connect, "--host=postgres", PATH=path, PGPASSWORD=engine.secret("postgres_password"))
    assert right.returncode == 0, right.stdout
    own = engine.of("postgres")[0].run(*connect, "--host=127.0.0.1")
    assert "no password supplied" in own.stdout  # also from within its container


def test_the_published_port_takes_no_job_without_the_token(engine: Engine, tmp_path: Path) -> None:
    url = Laptop(engine, tmp_path).ray
    token = engine.secret("ray_auth_token")
    people = [(None, NONE), (WRONG_TOKEN, WRONG)]
    tried = [job_submission(url, t, who, tmp_path / "canary") for t, who in people]
    tried += [one for t, who in [*people, (token, RIGHT)] for one in pages(url, t, who)]
    tried += other_ways_to_send_a_token(url, WRONG_TOKEN, WRONG)
    assert open_to_strangers(tried) == []
    assert shut_for_friends(tried) == []
    from_pages = everyone(lambda t, who: job_from_a_page(url, t, who, tmp_path / "canary"), token)
    assert [str(one) for one in from_pages if one.let_in] == []


def attack(engine: Engine, stranger: Container, *words: str) -> list[Attempt]:
    """tests/attacks.py as the stranger's program; it knows the right credentials, to show that they would help."""
    right = {"ATTACK_TOKEN": engine.secret("ray_auth_token")}
    right["ATTACK_MLFLOW"] = f"vitray:{engine.secret('mlflow_user_password')}"
    done = stranger.run("python", "/tests/attacks.py", *words, **right)
    assert done.returncode == 0, done.stdout
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return [Attempt(**one) for one in said["attempts"]]
