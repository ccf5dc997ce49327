"""``vitray models explain``: the pictures it writes, what it prints, and what it says about bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Here

from vitray.data.decode import decode, encode_png
from vitray.inference import Predictor
from vitray.model_config import ModelConfig
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package

pytestmark = pytest.mark.slow


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(capsys)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    shape = {"image_size": (8, 12), "patch_size": 4, "in_chans": 3, "num_classes": 2}
    config = ModelConfig(**shape, embed_dim=16, depth=2, num_heads=2, pos_encoding="relative", attention="axial")
    info = PackageInfo(
        model=config, classes=("cat", "dog"), mean=(0.5,) * 3, std=(0.3,) * 3, dataset_fingerprint="f" * 64
    )
    return save_package(tmp_path_factory.mktemp("model") / "m", VisionTransformer(config).state_dict(), info)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(encode_png(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)))
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


OF_MODEL = {"positional_encoding.png", "patch_filters.png"}


def test_pictures_are_written_and_listed(run: Here, package: Path, photo: Path, tmp_path: Path) -> None:
    to = tmp_path / "new" / "pictures"
    said = run("models", "explain", str(package), str(photo), "--to", str(to), "--output", "json")
    assert (said.code, said.err) == (0, "")
    names = OF_MODEL | {"attention_distance.png", "photo-attention.png", "photo-rollout.png"}
    assert files(to) == names
    listed = json.loads(said.out)
    assert listed["errors"] == []
    assert {Path(p["file"]).name for p in listed["pictures"]} == names
    for picture in listed["pictures"]:
        assert decode(Path(picture["file"]).read_bytes(), 3).std() > 1  # more than an empty page
        assert picture["image"] == (str(photo) if "photo-" in picture["file"] else None)
    answer = Predictor.load(package).predict([photo])[0]
    rollout = next(p for p in listed["pictures"] if p["file"].endswith("rollout.png"))
    assert rollout["shows"].startswith(f"{answer.label} ({answer.probability:.4f})")

    said = run("models", "explain", str(package), str(photo), "--to", str(to))  # replaces its own
    assert said.code == 0
    assert files(to) == names
    assert all(name in said.out for name in names)


def test_images_of_one_name_and_odd_names_have_pictures_of_their_own(
    run: Here, package: Path, photo: Path, tmp_path: Path
) -> None:
    others = [tmp_path / name for name in ("a/photo.png", "b/Photo.PNG", "a $x$ 猫\n.png", "x" * 240 + ".png")]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(photo.read_bytes())
    said = run("models", "explain", str(package), str(photo), *map(str, others), "--to", str(tmp_path / "to"))
    assert (said.code, said.err) == (0, "")
    stems = {"photo", "photo-2", "Photo-3", "a $x$ 猫\n", "x" * 48}
    pictures = {f"{stem}-{kind}.png" for stem in stems for kind in ("attention", "rollout")}
    assert files(tmp_path / "to") == OF_MODEL | {"attention_distance.png"} | pictures


def test_a_damaged_image_is_named_and_the_others_are_drawn(
    run: Here, package: Path, photo: Path, tmp_path: Path
) -> None:
    cut, gone, to = tmp_path / "cut.png", tmp_path / "gone.png", tmp_path / "to"
    cut.write_bytes(photo.read_bytes()[:200])
    words = ("models", "explain", str(package), str(cut), str(photo), str(gone), "--to", str(to), "--output", "json")
    said = run(*words)
    assert said.code == 2
    assert [e["image"] for e in json.loads(said.out)["errors"]] == [str(cut), str(gone)]
    assert f"{cut}: truncated PNG\n" in said.err
    assert "2 of 3 images could not be explained" in said.err
    assert "Traceback" not in said.err
    assert files(to) == OF_MODEL | {"attention_distance.png", "photo-attention.png", "photo-rollout.png"}

    said = run("models", "explain", str(package), str(cut), "--to", str(tmp_path / "second"))
    assert said.code == 2
    assert files(tmp_path / "second") == OF_MODEL  # what can be said without an image


def test_bad_targets_and_models_are_refused_before_work(run: Here, package: Path, photo: Path, tmp_path: Path) -> None:
    said = run("models", "explain", str(package), str(photo), "--to", str(photo))
    assert said.code == 2
    assert f"{photo}: is a file, not a folder" in said.err
    said = run("models", "explain", str(package), str(photo), "--to", "/proc/nowhere/to")
    assert said.code == 2
    assert "/proc/nowhere/to: cannot be written to" in said.err
    said = run("models", "explain", str(tmp_path / "none"), str(photo), "--to", str(tmp_path / "to"))
    assert said.code == 2
    assert "there is no such folder" in said.err
    assert not (tmp_path / "to").exists()
    said = run("models", "explain", str(package), str(photo))
    assert said.code == 2
    assert "--to" in said.err
