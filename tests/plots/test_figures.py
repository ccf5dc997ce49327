"""Figures: what they show, that they render, and that they leave no global state."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vitray.data.decode import decode
from vitray.plots import confusion_matrix, learning_curves, save

pytestmark = pytest.mark.slow


def test_learning_curves_show_both_series_and_the_best_epoch(tmp_path: Path) -> None:
    figure = learning_curves([1, 2, 3], [2.0, 1.0, 0.5], [0.3, math.nan, 0.9], title="trial 7")
    left, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == [2.0, 1.0, 0.5]
    assert right.lines[0].get_ydata()[2] == 0.9
    assert right.get_legend().get_texts()[0].get_text() == "best: 0.9000 in epoch 3"
    image = decode(save(figure, tmp_path / "new" / "curves.png").read_bytes(), 3)
    assert image.shape == (432, 1080, 3)
    assert (image != 255).any()


@pytest.mark.parametrize("epochs", [0, 1, 200])
def test_learning_curves_of_any_length_render(epochs: int, tmp_path: Path) -> None:
    values = [1 / (i + 1) for i in range(epochs)]
    assert save(learning_curves(range(epochs), values, values), tmp_path / "c.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="losses"):
        learning_curves([1], [1.0, 2.0], [1.0])


def test_the_confusion_matrix_shows_counts_names_and_accuracy(tmp_path: Path) -> None:
    figure = confusion_matrix(
        [[8, 2, 0], [0, 5, 5], [0, 0, 0]], ["cat", "dog", "a very long name of a class"], title="T"
    )
    axes = figure.axes[0]
    assert axes.get_title() == "T\naccuracy 0.6500 of 20 images"
    assert sorted(text.get_text() for text in axes.texts) == ["2", "5", "5", "8"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "a very long name …"]
    shares = axes.images[0].get_array()
    assert np.asarray(shares).tolist() == [[0.8, 0.2, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]
    assert save(figure, tmp_path / "m.png").stat().st_size > 1000


@pytest.mark.parametrize("classes", [1, 30, 300])
def test_confusion_matrices_of_any_size_render(classes: int, tmp_path: Path) -> None:
    figure = confusion_matrix(np.eye(classes, dtype=int), [f"class {i}" for i in range(classes)])
    image = decode(save(figure, tmp_path / "m.png").read_bytes(), 3)
    assert max(image.shape) < 2400
    assert len(figure.axes[0].get_xticks()) <= 60
    with pytest.raises(ValueError, match="for 2 classes"):
        confusion_matrix(np.eye(3), ["a", "b"])


def test_pyplot_is_never_imported() -> None:
    code = "import sys, vitray.plots as p\np.learning_curves([1], [1], [1]); p.confusion_matrix([[1]], ['a'])\n"
    code += (
        "assert 'matplotlib.pyplot' not in sys.modules and 'mlflow' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
