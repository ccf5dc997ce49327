"""One real head for the tests of this folder: it takes seven seconds to start."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from ray_head import Head


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
