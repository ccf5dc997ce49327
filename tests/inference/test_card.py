"""The model card: complete, short enough for MLflow, and nothing in it that a name could break."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitray.data.images import ShardedImages
from vitray.experiment import Experiment
from vitray.inference.card import Card
from vitray.inference.score import Score
from vitray.tracking.card_text import LIMIT, filled, without_pictures


@pytest.fixture(scope="module")
def data(digits: Path) -> ShardedImages:
    return ShardedImages.open(str(digits))


def card(data: ShardedImages, classes: tuple[str, ...]) -> str:
    values = {"path": data.store.shown, "augment": {"shift": 1}}
    shape = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    experiment = data.resolve(Experiment(data=values, model=shape, train={"init_from": "models:/a`b`@c"}))
    rows = np.arange(len(classes) * 3)
    labels = rows % len(classes)
    score = Score("test", classes, rows, labels, np.where(rows < 2, 1, labels), 1.0)
    pictures = [("Confusion", "figures/confusion matrix.png")]
    return Card("digits", experiment, data, score, "best of 12", {"sweep": "first"}, pictures).markdown()


def test_it_says_what_a_person_needs_to_know(data: ShardedImages) -> None:
    text = card(data, data.classes)
    for said in (
        "patch 4, depth 2, 2 heads",
        "best of 12",
        "| 0 | 0.667 |",  # the only class with a mistake, taken once for the second
        "| 1 (1) |",
        "train 1,258, val 180, test 359",
        data.fingerprint,
        "augmentation: shift 1",
        "sweep: first",
        'Predictor.load("models:/digits/{{version}}")',
        "answers with one of its 10 classes",
    ):
        assert said in text, said
    low, high = text.split("95 % interval ")[1].split(",")[0].split(" to ")
    assert 0 < float(low) < 29 / 30 < float(high) < 1
    assert "![Confusion](get-artifact?run_uuid=r17&path=figures%2Fconfusion%20matrix.png)" in filled(text, "3", "r17")
    assert "{{" not in filled(text, "3", "r17")
    assert "models:/digits/3" in filled(text, "3", "r17")
    assert "get-artifact" not in without_pictures(text)


def test_a_thousand_classes_fit(data: ShardedImages) -> None:
    text = card(data, tuple(f"class number {i} with a name that is as long as names can be" for i in range(1000)))
    assert len(text) < LIMIT
    assert "The 12 worst of 1000 classes" in text


def test_names_cannot_become_markup(data: ShardedImages) -> None:
    text = card(data, ("<img src=x onerror=alert(1)>", "a|b", "*c*"))
    assert "<img" not in text.replace("\\<", "")
    assert "a\\|b" in text
    assert "\\*c\\*" in text
    assert "a\\`b\\`@c" in text
