"""Options and sources that cannot be meant are refused by name, before anything is read or written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from listed import Listed

from vitray.data.decode import encode_png
from vitray.data.prepare import prepare
from vitray.data.sources import Item
from vitray.errors import DataError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seed", [-1, 2**64]),
        ("size", [0, -3, 10**9]),
        ("rows_per_group", [0, -1, 10**30]),
        ("shard_mb", [0, -1, NAN, INF, 1e300]),
        ("fractions", [(0.5, 0.5, 0.5), (0, 0.5, 0.5), (1.2, -0.1, -0.1), (NAN, 0.5, 0.5), (INF, 0, 0), (0.5, 0.5)]),
        ("splits", ["folder", ""]),
        ("max_bad_fraction", [2, -0.1, NAN, INF]),
        ("max_pixels", [0, -5]),
        ("executor", ["rya", ""]),
    ],
)
def test_an_option_out_of_range_is_named(name: str, values: list[Any], tmp_path: Path) -> None:
    for value in values:
        with pytest.raises(DataError, match=f"^{name}: ") as error:
            prepare("builtin:digits", tmp_path / "ds", **{name: value})
        assert error.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_destination_without_a_name_is_refused() -> None:
    for dest in ("", "  ", "a\0b"):
        with pytest.raises(DataError, match="is no path"):
            prepare("builtin:digits", dest)


def items(*labels: str | int) -> tuple[Item, ...]:
    import numpy as np

    return tuple(Item(f"{i}", label, encode_png(np.full((2, 2), i, np.uint8))) for i, label in enumerate(labels))


def test_integer_labels_sort_as_numbers_and_become_text(tmp_path: Path) -> None:
    manifest = prepare(Listed(items(*[10, 9, -1] * 8)), tmp_path / "ds")
    assert manifest.classes == ("-1", "9", "10")
    named = Listed(items(*[2, 0] * 8), class_names=("ant", "bee", "cat"))
    manifest = prepare(named, tmp_path / "named")
    assert manifest.classes == ("ant", "bee", "cat")
    assert sum(split.class_counts[1] for split in manifest.splits.values()) == 0


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Listed(()), "holds no images"),
        (Listed(items(*["a", 1] * 8)), "both names and integers"),
        (Listed(items(*[0, 3] * 8), class_names=("ant", "bee")), "has the label '3', but 2 class names"),
        (Listed(items(*["a", "b\n"] * 8)), "a label that cannot be printed"),
        (Listed((*items("a", "b"), *items("a", "b"))), "two images of one name"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(source: Listed, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says) as error:
        prepare(source, tmp_path / "ds")
    assert error.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_ray_that_is_not_there_is_not_started_for_ray(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from vitray.data.prepare import prepare\n"
        "try:\n    prepare('builtin:digits', sys.argv[1], executor='ray')\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "ds")], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("ResourceError executor: this process is not connected to a Ray cluster")
    assert list(tmp_path.iterdir()) == []
