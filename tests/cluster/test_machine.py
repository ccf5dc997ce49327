"""What this machine has, as containers and drivers limit it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vitray.cluster import machine
from vitray.cluster.machine import Machine, gpu_memory


@pytest.mark.parametrize(("quota", "cpus"), [("max 100000", 64), ("250000 100000", 2), ("50000 100000", 1), ("", 64)])
def test_a_containers_quota_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert Machine.here().cpus == cpus


@pytest.mark.parametrize(
    ("visible", "gpus"), [(None, 2), ("0,1", 2), ("1", 1), ("", 0), ("-1", 0), ("0,1,2,3", 2), ("GPU-1f2e", 1)]
)
def test_hidden_and_absent_gpus_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, gpus: int
) -> None:
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Machine.here().gpus == gpus


@pytest.mark.parametrize(("limit", "expected"), [("max", None), ("", None), (str(2**30), 2**30)])
def test_a_containers_memory_limit_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, expected: int | None
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(machine, "_LIMIT", tmp_path / "memory.max")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert Machine.here().node_memory == (expected or whole)


def test_the_smallest_gpu_counts_and_a_silent_driver_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    tool = tmp_path / "nvidia-smi"
    for script, expected in (("printf '81559\\n40960\\n'", 40960 * 2**20), ("echo '[N/A]'", None), ("exit 9", None)):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert gpu_memory() == expected
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert gpu_memory() is None
