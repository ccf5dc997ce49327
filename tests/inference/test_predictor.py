"""The predictor: one answer per image, the same however it arrives, and the same as evaluation gives."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vitray.data.decode import Image, decode, encode_png, fit
from vitray.errors import CheckpointError, DataError, ResourceError
from vitray.inference import Predictor
from vitray.inference.predictor import BATCH
from vitray.models.package import load_package
from vitray.models.preprocess import normalise

pytestmark = pytest.mark.slow


@pytest.fixture(params=["gray", "colour"])
def package(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_answers_are_those_of_evaluation(package: Path, pictures: list[Image]) -> None:
    assert len(pictures) > 2 * BATCH
    encoded = [encode_png(p) for p in pictures]
    model, info = load_package(package)
    stacked = np.stack([fit(decode(data, len(info.mean)), info.model.size) for data in encoded])
    with torch.inference_mode():
        expected = model(normalise(torch.from_numpy(stacked), info.mean, info.std)).softmax(1)
    answers = Predictor.load(package).predict(encoded, top_k=2)
    assert [a.label for a in answers] == [info.classes[i] for i in expected.argmax(1)]
    assert [a.probability for a in answers] == pytest.approx(expected.amax(1).tolist(), abs=1e-5)
    for answer in answers:
        assert answer.error is None
        assert answer.top[0] == (answer.label, answer.probability)
        assert len(answer.top) == 2
        assert answer.top[0][1] >= answer.top[1][1]
    assert len({a.label for a in answers}) > 1  # a model that always says the same would pass everything above


def test_one_picture_has_one_answer_however_it_arrives(package: Path, pictures: list[Image], tmp_path: Path) -> None:
    predictor = Predictor.load(str(package))
    for number, picture in enumerate(pictures[:10]):
        file = tmp_path / f"{number}.png"
        file.write_bytes(encode_png(picture))
        forms = [file.read_bytes(), file, str(file), picture, bytearray(file.read_bytes())]
        if picture.shape[2] == 1:
            forms.append(picture[:, :, 0])
        found = [predictor.predict([form])[0] for form in forms]
        assert {f.label for f in found} == {found[0].label}
        assert [f.probability for f in found] == pytest.approx([found[0].probability] * len(forms))


def test_a_bad_image_costs_only_its_own_row(package: Path, pictures: list[Image], tmp_path: Path) -> None:
    good = encode_png(pictures[0])
    bad = {
        b"": "empty",
        b"not an image": "not a JPEG or PNG",
        good[:40]: "truncated",
        str(tmp_path / "none.png"): "No such file",
        tmp_path: "Is a directory",
        "nul\0name": "cannot read the file",
        3: "int is not an image",
        None: "NoneType is not an image",
    }
    arrays = [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(5, np.uint8)]
    images = [good, *bad, *arrays, good]
    answers = Predictor.load(package).predict(images)  # type: ignore[arg-type]
    assert len(answers) == len(images)
    assert answers[0].label == answers[-1].label is not None
    for answer, expected in zip(answers[1:], [*bad.values(), *["is not an image"] * 4], strict=False):
        assert answer.error is not None
        assert expected in answer.error
        assert (answer.label, answer.top) == (None, ())
        assert math.isnan(answer.probability)
    assert all(a.error for a in Predictor.load(package).predict([b"", b"x"]))


def test_top_k_is_kept_within_the_classes(gray: Path, pictures: list[Image]) -> None:
    predictor = Predictor.load(gray)
    (all_of_them,) = predictor.predict(pictures[:1], top_k=99)
    assert sorted(label for label, _ in all_of_them.top) == ["ant", "bee", "cat", "dog", "elk"]
    assert sum(probability for _, probability in all_of_them.top) == pytest.approx(1)
    assert predictor.predict(pictures[:1], top_k=1)[0].top == all_of_them.top[:1]
    assert predictor.predict([]) == []


def test_no_model_there(gray: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Predictor.load(tmp_path / "none")
    with pytest.raises(DataError, match="not a model"):
        Predictor.load(tmp_path)
    with pytest.raises(ResourceError, match="cannot use it") as error:
        Predictor.load(gray, device="cuda:99")
    assert error.value.exit_code == 2
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.json").write_bytes((gray / "model.json").read_bytes())
    weights = bytearray((gray / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="damaged"):
        Predictor.load(damaged)


def test_a_local_folder_needs_no_mlflow(gray: Path) -> None:
    code = "import sys\nfrom vitray.inference import Predictor\nPredictor.load(sys.argv[1])\n"
    code += "print(sorted(m for m in ('mlflow', 'ray', 'pandas', 'matplotlib') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, str(gray)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
