"""``vitray models cost`` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Here, contents

CONFIGS = Path(__file__).parents[2] / "configs"
GIVEN = ("model.in_chans=3", "model.num_classes=1000")

pytestmark = pytest.mark.slow


@pytest.fixture
def vitray(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setenv("VITRAY_HOME", str(tmp_path / "home"))
    return Here(capsys)


def test_without_data_it_takes_what_is_given(vitray: Here, tmp_path: Path) -> None:
    said = vitray(
        "models", "cost", str(CONFIGS / "imagenet.yaml"), *GIVEN, "--device", "cuda", "--batch", "128", "--output",
        "json",
    )  # fmt: skip
    facts = json.loads(said.out)
    assert said.code == 0
    assert facts["parameters"] == sum(part["parameters"] for part in facts["parts"].values()) == 21_975_016
    assert facts["flops_per_image"]["forward"] == pytest.approx(9.2e9, rel=0.01)  # twice timm's 4.6 GMACs
    assert facts["memory"]["batch"] == 128
    assert facts["memory"]["precision"] == "bfloat16"
    assert facts["memory"]["peak"] > facts["memory"]["activations"] > 2**30
    assert contents(tmp_path) == {}


def test_with_data_it_knows_the_whole_training(vitray: Here) -> None:
    said = vitray("models", "cost", str(CONFIGS / "digits.yaml"), "train.epochs=10")
    assert said.code == 0
    assert "10 epochs of 1,258 images" in said.out
    assert "memory of a step of 128 images" in said.out


def test_without_either_it_says_what_to_give(vitray: Here) -> None:
    said = vitray("models", "cost", str(CONFIGS / "imagenet.yaml"))
    assert said.code == 2
    assert "there is no such dataset" in said.err
    assert "model.in_chans=3 model.num_classes=10" in said.err
    said = vitray("models", "cost", str(CONFIGS / "imagenet.yaml"), *GIVEN, "model.num_heads=5")
    assert said.code == 2
    assert "does not divide" in said.err
