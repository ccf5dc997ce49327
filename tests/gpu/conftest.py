"""What only a GPU shows. Without one every test here is skipped, and says so."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "train"))  # small_runs: small trainings, here on a GPU


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and torch finds none")


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """The first GPU, and nothing of the test left on it."""
    yield torch.device("cuda", 0)
    gc.collect()
    torch.cuda.empty_cache()
