"""A project of digits, and one real head for the tests of this folder: it takes seven seconds to start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import Head

from vitray.cluster.machine import Machine


@pytest.fixture
def project(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a config of digits without a model, ``c.yaml``, and a machine that can hold its sweep."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: cls(cpus=4, gpus=0)))
    (tmp_path / "ds").symlink_to(digits)
    (tmp_path / "c.yaml").write_text(
        "data: {path: ds}\ncluster: {use_gpu: false}\nsearch: {space: {train.seed: [0, 1]}, trials: 9}\n"
    )
    return tmp_path


@pytest.fixture(scope="package")
def head() -> Iterator[Head]:
    """A running cluster of somebody else. Whatever the tests do with it, it must be well at the end."""
    before = _environment()
    head = Head()
    try:
        head.start()
        yield head
        assert head.healthy(), "a test stopped or broke a cluster that it had only joined"
    finally:
        left = head.stop()
    assert not left
    assert _environment() == before


def _environment() -> dict[str, str]:
    """What Ray, vitray and MLflow read; but importing Ray sets one by itself."""
    ours = ("RAY_", "VITRAY_", "MLFLOW_")
    return {k: v for k, v in os.environ.items() if k.startswith(ours) and k != "RAY_CLIENT_MODE"}
