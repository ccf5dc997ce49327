"""`vitray doctor` on healthy machines, and on each fault, made for real: its finding, its remedy, its exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from attacks import http
from processes import kill_all
from ray_head import Head, free_port

from vitray.cli import main
from vitray.cluster.doctor import (
    BLOCKS,
    OK,
    WARNING,
    Finding,
    accelerator,
    by_job,
    dataset,
    doors,
    nodes,
    packages,
    room,
    tracking,
)
from vitray.home import Home


def worst(findings: list[Finding], check: str) -> Finding:
    return max((one for one in findings if one.check == check), key=lambda one: (OK, WARNING, BLOCKS).index(one.state))


@pytest.mark.slow
def test_a_healthy_machine(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    with pytest.raises(SystemExit) as done:
        main(["doctor", "--data", str(digits), "--output", "json"])
    said = json.loads(capsys.readouterr().out)
    assert (done.value.code, said["blocks"]) == (0, 0), said
    checks = {one["check"] for one in said["findings"] if one["state"] in (OK, WARNING)}
    assert checks == {
        *("python", "packages", "torch", "gpu", "disk", "object store", "open files"),
        *("token", "ports", "dataset", "mlflow", "spool"),
    }
    assert all(one["remedy"] for one in said["findings"] if one["state"] == WARNING)
    assert "f" * 64 not in json.dumps(said)
    assert not Home.find().root.exists(), "a doctor changes nothing"


def fake(folder: Path, name: str, version: str, *requires: str) -> None:
    """What a package's installer leaves beside it."""
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    metadata.write_text("\n".join(lines) + "\n")


def test_a_wrong_version_and_a_pair_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst(packages.check(), "packages").state == OK
    fake(tmp_path, "ray", "2.10.0")
    fake(tmp_path, "torchvision", "0.29.1", "torch==2.14.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [one for one in packages.check() if one.state == BLOCKS]
    assert any("ray is 2.10.0; vitray wants" in one.what for one in found)
    assert any("torchvision 0.29.1 was made for torch==2.14.0" in one.what for one in found)
    assert all("constraints.txt" in (one.remedy or "") for one in found)
    assert packages.versions()["ray"] == "2.10.0"


def test_packages_that_are_missing_where_vitray_came_with_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worst(packages.check(), "packages").state == OK  # and imports what it needs
    for name in ("ray", "torch", "torchvision"):
        fake(tmp_path, name, "1.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # nothing is installed, vitray neither
    assert [one.what for one in packages.check() if one.state == BLOCKS] == ["mlflow is missing"]
    fake(tmp_path, "mlflow", "1.0")
    assert "mlflow 1.0" in worst(packages.check(), "packages").what
    assert worst(packages.check(), "packages").state == OK


@pytest.mark.slow
def test_torch_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = accelerator.TorchLook().findings()
    assert (found.state, "torchvision::nms does not exist" in found.what) == (BLOCKS, True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False).returncode
    ):
        pytest.skip("cannot mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    found = worst(room.check(small_disk / "home"), "disk")
    assert (found.state, "1 MiB free" in found.what) == (BLOCKS, True)
    assert "VITRAY_HOME" in (found.remedy or "")
    with (small_disk / "big").open("wb") as file, pytest.raises(OSError, match="No space"):
        file.write(bytes(2**21))
    assert "No space left" in worst(room.check(small_disk / "home"), "disk").what
    assert not (small_disk / "home").exists()


def test_a_home_that_is_a_file_and_a_store_larger_than_shared_memory(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    assert "is no folder" in worst(room.check(tmp_path / "home"), "disk").what
    found = worst(room.check(tmp_path, 2.0**50), "object store")
    assert (found.state, "--shm-size" in (found.remedy or "")) == (WARNING, True)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder into which this process may not look."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)  # root may look everywhere
    yield folder
    os.seteuid(before)
    folder.chmod(0o700)


def test_a_home_where_nobody_may_look(closed: Path) -> None:
    home = closed / "a" / "home"
    assert "cannot write in" in worst(room.check(home), "disk").what
    (found,) = nodes.check(home, None, 1.0)
    assert (found.check, found.state, f"cannot write to {home} here: Permission denied" in found.what) == (
        *("storage", BLOCKS),
        True,
    )
    assert worst(tracking.check(Home(home)), "spool").state == BLOCKS


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home, why in ((Path("/proc/vitray"), "No such file"), (tmp_path / "file", "File exists")):
        (found,) = nodes.check(home, None, 1.0)
        assert (found.check, found.state) == ("storage", BLOCKS)
        assert why in found.what
        assert "VITRAY_HOME" in (found.remedy or "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_job_of_the_doctor_may_do_what_its_sender_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VITRAY_HOME", "VITRAY_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    assert by_job.request("s3://b/digits", None, 8.0).variables == {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITRAY_HOME", "state")
    monkeypatch.setenv("VITRAY_INSECURE", "1")
    assert by_job.request(None, None, 8.0).variables == {
        "VITRAY_INSECURE": "1",
        "VITRAY_JOB_HOME": str(tmp_path / "state"),
    }


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    return tmp_path


def test_a_token_that_others_can_read(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (user / ".ray" / "auth_token").write_text("a" * 64)
    (user / ".ray" / "auth_token").chmod(0o644)
    (found,) = doors.check_token()
    assert (found.state, "mode 0644" in found.what) == (WARNING, True)
    assert "chmod 600" in (found.remedy or "")
    (user / ".ray" / "auth_token").chmod(0o600)
    assert doors.check_token()[0].state == OK
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(user / "missing"))
    assert doors.check_token()[0].state == BLOCKS


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", 8000))
            taken.listen()
        except OSError:
            pytest.skip("somebody else has it")
        assert "8000 (vitray serve)" in doors.check_ports()[0].what


def test_a_dataset_that_is_missing_or_damaged(tmp_path: Path, digits: Path) -> None:
    assert worst(dataset.check(str(digits)), "dataset").state == OK
    assert worst(dataset.check(str(tmp_path / "missing")), "dataset").state == BLOCKS
    shutil.copytree(digits, tmp_path / "ds")
    manifest = tmp_path / "ds" / "manifest.json"
    manifest.write_text(manifest.read_text()[:-40])
    found = worst(dataset.check(str(tmp_path / "ds")), "dataset")
    assert (found.state, "manifest.json" in found.what) == (BLOCKS, True)
    assert not Home.find().root.exists()
    assert dataset.check("builtin:digits")[0].state == OK
    assert not Home.find().root.exists()


@pytest.mark.slow
def test_mlflow_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hush-hush@127.0.0.1:{free_port()}")
    found = worst(tracking.check(Home(tmp_path)), "mlflow")
    assert (found.state, "connection refused" in found.what) == (BLOCKS, True)
    assert "hush-hush" not in json.dumps(found.as_json())
    assert worst([tracking.clock("MLflow", 400.0)], "clock").state == BLOCKS


def test_mlflow_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    found = worst(tracking.check(Home(tmp_path)), "mlflow")
    assert (found.state, "mlflow" in found.what, "pip install" in (found.remedy or "")) == (BLOCKS, True, True)


def test_reports_that_wait(tmp_path: Path) -> None:
    from vitray.tracking.spool import Spool

    spool = Spool(tmp_path / "spool" / "r")
    spool.append("start", {"run": "r", "name": "r", "experiment": "e", "timestamp_ms": 1})
    spool.close()
    found = worst(tracking.check(Home(tmp_path)), "spool")
    assert (found.state, "vitray track sync" in (found.remedy or "")) == (WARNING, True)


def doctor(head: Head, home: Path, *words: str, **more: str) -> tuple[int, list[dict[str, Any]]]:
    """On the head's cluster, as a person would; the findings."""
    said = head.run(
        *(sys.executable, "-m", "vitray.cli", "doctor", "--address", head.address, "--output", "json", *words),
        **{"VITRAY_HOME": str(home), **more},
    )
    return said.returncode, json.loads(said.stdout[said.stdout.index("{") :])["findings"]


@pytest.fixture
def other_node(head: Head, tmp_path: Path) -> Iterator[psutil.Process]:
    """A second machine of the head's cluster, which keeps its state elsewhere. Its raylet."""
    command = ["ray", "start", "--block", "--address", head.address, "--num-cpus", "0", "--disable-usage-stats"]
    env = head.environment(VITRAY_HOME=str(tmp_path / "elsewhere"), RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0")
    before = {process.pid for process in head.processes()}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    raylets: list[psutil.Process] = []
    while not raylets and time.monotonic() < deadline:
        raylets = [one for one in head.processes() if one.pid not in before and one.name() == "raylet"]
        time.sleep(0.2)
    (raylet,) = raylets
    url, token = f"{head.url}/api/v0/nodes?detail=false", {"Authorization": f"Bearer {head.token}"}
    while http("GET", url, token)[1].count('"ALIVE"') < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    yield raylet
    started = [one for one in head.processes() if one.pid not in before]
    process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(started, timeout=30)
    kill_all(left)


@pytest.mark.ray
def test_a_cluster_whose_second_machine_keeps_its_state_elsewhere_and_then_hangs(
    head: Head, other_node: psutil.Process, tmp_path: Path, digits: Path
) -> None:
    home = tmp_path / "shared"
    code, found = doctor(head, home, "--data", str(digits))
    states = {one["what"].split()[0]: one["state"] for one in found if one["check"] == "storage"}
    assert (code, states) == (1, {str(home): OK, "VITRAY_HOME": BLOCKS})
    assert sorted(one["check"] for one in found if one["state"] == BLOCKS) == ["storage"], found
    assert len([one for one in found if (one["check"], one["state"]) == ("dataset", OK)]) == 2
    assert [one["state"] for one in found if one["check"] == "authentication"] == [OK]
    assert not home.exists()

    other_node.suspend()
    try:
        code, found = doctor(head, home, "--node-timeout", "8")
    finally:
        other_node.resume()
    silent = [one for one in found if one["check"] == "node"]
    assert (code, {one["what"] for one in silent}) == (1, {"no answer within 8 s"})  # of a busy first one as well


@pytest.mark.ray
def test_a_wrong_token_and_nobody_there_are_findings(head: Head, tmp_path: Path) -> None:
    code, found = doctor(head, tmp_path / "home", RAY_AUTH_TOKEN="0" * 64)
    (cluster,) = [one for one in found if one["check"] == "cluster"]
    assert (code, "refuses the token" in cluster["what"]) == (1, True)


@pytest.mark.ray
def test_by_its_dashboard_a_cluster_looks_at_itself(head: Head, tmp_path: Path, digits: Path) -> None:
    said = head.run(
        *(sys.executable, "-m", "vitray.cli", "doctor", "--address", head.url, "--output", "json"),
        *("--data", str(digits)),
        VITRAY_HOME=str(tmp_path / "home"),
    )
    facts = json.loads(said.stdout[said.stdout.index("{") :])
    assert (said.returncode, facts["blocks"]) == (0, 0), said.stdout
    assert {"cluster", "storage", "dataset", "torch", "mlflow"} <= {one["check"] for one in facts["findings"]}
