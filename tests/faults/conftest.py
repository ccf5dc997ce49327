"""Faults that are really injected. In ``make test`` a few of each of some rows; the whole table is ``make faults``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from injections import full
from one_thread import one_thread

__all__ = ["one_thread"]

# What the other tests train, serve and spoil, is trained, served and spoilt here.
sys.path.extend(
    str(Path(__file__).parent.parent / folder) for folder in ("train", "tracking", "cluster", "tune", "cli", "hosts")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rows that only ``make faults`` runs are skipped elsewhere; with it, a row may take as long as it needs."""
    for item in items:
        if any(item.get_closest_marker(name) for name in ("faults", "soak")) and not full():
            item.add_marker(pytest.mark.skip(reason="a row of the table of faults: make faults (or make soak) runs it"))
