"""What a person sees of a dataset: figures and pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from vitray.data.inspect import samples, summary
from vitray.data.shards import ShardStore
from vitray.plots.contact_sheet import contact_sheet


def test_the_summary_is_plain_values(digits: Path) -> None:
    facts = json.loads(json.dumps(summary(ShardStore.open(digits))))
    assert facts["splits"]["train"]["rows"] == 1258
    assert sum(facts["splits"]["test"]["class_counts"].values()) == 359
    assert facts["image_size"] == [8, 8]


def test_samples_are_of_their_class(digits: Path) -> None:
    store = ShardStore.open(digits)
    found = samples(store, [3, 7], per_class=5)
    assert {label: len(images) for label, images in found.items()} == {3: 5, 7: 5}
    assert all(image.shape == (8, 8, 1) for images in found.values() for image in images)
    everything = samples(store, [3], per_class=10_000)[3]
    assert len(everything) == store.manifest.splits["train"].class_counts[3]


def test_the_contact_sheet_shows_every_class_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {
        0: [np.full((30, 60, 3), (255, 0, 0), np.uint8)] * 3,
        2: [rng.integers(0, 255, (8, 8, 1), dtype=np.uint8)] * 12,
        1: [],
    }
    figure = contact_sheet(rows, ["red", "none of it", "noise"], per_class=10)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["red", "noise", "none of it"]
    assert len(axes.get_images()) == 13
    figure.savefig(tmp_path / "sheet.png")
    pixels = np.asarray(Pil.open(tmp_path / "sheet.png").convert("RGB"))
    red = np.all(pixels == (255, 0, 0), axis=2)
    rows_red, columns_red = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert red.sum() > 1000
    assert rows_red.max() < pixels.shape[0] / 3  # in its own row
    first = columns_red[: np.flatnonzero(np.diff(columns_red) > 1)[0] + 1]
    assert len(first) / len(rows_red) == pytest.approx(2, rel=0.1)  # proportions are kept


def test_plots_leave_pyplot_alone() -> None:
    script = "import sys, vitray.plots.contact_sheet; print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False False\n"
