"""Which Ray a command works on: its own, unless a cluster is named; and what is said when that one is not there."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest
from ray_head import CPUS, Head, free_port

from vitray.cli import main
from vitray.cluster.address import check_answers, named_address
from vitray.cluster.local import connect
from vitray.cluster.machine import Machine
from vitray.data.prepare import prepare
from vitray.errors import ResourceError
from vitray.home import Home

_CONNECT = "from vitray.cluster.local import connect\nwith connect() as c: print(c)"


def ray_children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.is_running() and p.status() != "zombie"]


@pytest.mark.ray
def test_a_local_ray_is_ones_own_and_leaves_nothing(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_TMPDIR", str(head.folder))  # where Ray looks for the cluster that was started last
    assert (head.folder / "ray" / "ray_current_cluster").read_text().endswith(f":{head.port}")
    before, children = dict(os.environ), {p.pid for p in ray_children()}
    with connect() as cluster:
        assert cluster.local
        assert not ray.get_runtime_context().gcs_address.endswith(f":{head.port}")
        here = Machine.here()
        assert (cluster.cpus, cluster.gpus) == (here.cpus, here.gpus)
        assert here.node_memory is not None
        assert 0.5 * here.node_memory < (cluster.node_memory or 0) <= here.node_memory, "Ray keeps some for itself"
        assert len(ray.nodes()) == 1
        with pytest.raises(ResourceError, match="connected to a Ray already"), connect():
            pass
        assert ray.is_initialized()  # what was refused did not end what there was
    assert dict(os.environ) == before
    assert not ray.is_initialized()
    started = [p for p in ray_children() if p.pid not in children]
    _, left = psutil.wait_procs(started, timeout=15)
    assert not left
    assert head.healthy()


@pytest.mark.ray
def test_a_named_cluster_is_joined_and_goes_on(head: Head) -> None:
    said = head.run(sys.executable, "-c", _CONNECT, RAY_ADDRESS=head.address)
    assert (said.returncode, f"address='{head.address}', cpus={CPUS}.0, gpus=0.0" in said.stdout) == (0, True)
    assert head.healthy()


@pytest.mark.ray
@pytest.mark.parametrize(
    ("mode", "token", "says"), [("disabled", "", "wants a token"), ("token", "0" * 64, "refuses the token")]
)
def test_a_wrong_token_is_named(head: Head, monkeypatch: pytest.MonkeyPatch, mode: str, token: str, says: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(ResourceError, match=says) as caught:
        check_answers(head.address)
    assert "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in str(caught.value)


@pytest.mark.ray
def test_a_port_of_something_else_is_named(head: Head) -> None:
    with pytest.raises(ResourceError, match="it is no Ray head node"):
        check_answers(f"127.0.0.1:{head.dashboard_port}")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:{free}", "no Ray cluster answers: Connection refused"),
        ("host.invalid:6379", "no Ray cluster answers"),
        ("http://127.0.0.1:8265", "vitray jobs submit train CONFIG --address http://127.0.0.1:8265"),
        ("ray://127.0.0.1:10001", "HOST:PORT"),
        ("head", "write HOST:PORT"),
        ("head:99999", "write HOST:PORT"),
        (":6379", "write HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address: str, says: str) -> None:
    start = time.monotonic()
    with pytest.raises(ResourceError) as caught, connect(address.format(free=free_port())):
        pass
    assert says in str(caught.value)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("verb", [["train"], ["sweep", "run"], ["sweep", "plan"]])
def test_a_command_without_its_cluster_exits_2_and_leaves_nothing(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("builtin:digits", str(tmp_path / "ds"))
    config = tmp_path / "small.yaml"
    config.write_text("name: taken\ndata: {path: ds}\nmodel: {patch_size: 4}\nsearch: {space: {model.depth: [1, 2]}}\n")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    start = time.monotonic()
    with pytest.raises(SystemExit) as left:
        main([*verb, str(config)])
    assert left.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("error: ") == 1
    assert "no Ray cluster answers" in said.err
    assert "-> start one with" in said.err
    assert not Home.find().root.exists()
    assert time.monotonic() - start < 10


def test_who_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_address(None) is None
    assert named_address("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "")  # as an empty value in an env file leaves it
    assert named_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "a:1")
    assert named_address(None) == "a:1"
    assert named_address("b:2") == "b:2"
    assert named_address("local") is None
