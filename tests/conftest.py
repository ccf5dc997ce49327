"""What every test shares: a state folder of its own, and a patient hypothesis (the machines are shared)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from s3_server import Bucket, new_bucket, s3_server

from vitray.cluster.local import Cluster, connect

settings.register_profile("vitray", deadline=None, derandomize=True)
settings.load_profile("vitray")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Started with "&" from a script, which hands that on: no process that a test starts would hear Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State goes to the test's own folder, and no server or cluster of the person who runs the tests is touched."""
    monkeypatch.setenv("VITRAY_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """builtin:digits with seed 0. Only for reading."""
    from vitray.data.prepare import prepare  # here, since most tests need no data

    folder = tmp_path_factory.mktemp("digits") / "ds"
    prepare("builtin:digits", folder)
    return folder


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Where an S3-compatible server listens."""
    with s3_server() as port:
        yield port


@pytest.fixture
def bucket(s3_port: int) -> Bucket:
    """New and empty."""
    return new_bucket(s3_port)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One local Ray for the tests of a module: a start costs seconds."""
    with connect() as connected:
        yield connected
