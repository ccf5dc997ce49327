"""The reliability diagram: what it shows, and that it renders whatever it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitray.data.decode import decode
from vitray.inference.calibration import reliability
from vitray.plots import save
from vitray.plots.reliability import reliability_diagram

pytestmark = pytest.mark.slow


def test_bars_are_the_bins_that_hold_images_and_the_title_has_the_ece(tmp_path: Path) -> None:
    found = reliability([0.55] * 4 + [0.95] * 10, [True, True, True, False] + [True] * 5 + [False] * 5, bins=10)
    figure = reliability_diagram(found.edges, found.counts, found.accuracy, found.confidence, title="digits")
    above, below = figure.axes
    assert above.get_title() == f"digits\nECE {found.ece:.4f} over 10 bins, 14 images"
    heights = [bar.get_height() for bar in above.containers[0]]
    assert heights == pytest.approx([0.75, 0.5])
    assert [bar.get_x() for bar in above.containers[0]] == pytest.approx([0.5, 0.9])
    tops = [bar.get_y() + bar.get_height() for bar in above.containers[1]]
    assert tops == pytest.approx([0.55, 0.95])
    assert sum(bar.get_height() for bar in below.containers[0]) == pytest.approx(1)
    means = [text.get_text() for text in below.get_legend().get_texts()]
    assert means == [f"mean accuracy {8 / 14:.3f}", f"mean confidence {(4 * 0.55 + 10 * 0.95) / 14:.3f}"]
    assert decode(save(figure, tmp_path / "r.png").read_bytes(), 3).std() > 10


@pytest.mark.parametrize("samples", [0, 1, 5000])
def test_any_number_of_samples_renders(samples: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = reliability(rng.random(samples), rng.random(samples) < 0.5)
    figure = reliability_diagram(found.edges, found.counts, found.accuracy, found.confidence)
    assert save(figure, tmp_path / "r.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="3 edges"):
        reliability_diagram([0, 0.5, 1], [1], [1], [1])
