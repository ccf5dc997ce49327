"""Answers of batch scoring: the predictor's, row by row, whatever threads, units and kinds of image there are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from vitray.data.decode import Image, encode_png
from vitray.data.prepare import prepare
from vitray.data.shards import ShardStore
from vitray.data.unit import pixels_of as stored_pixels
from vitray.inference import Predictor
from vitray.inference.batch import BatchScorer, LoadedModel, in_threads
from vitray.inference.inputs import open_inputs
from vitray.inference.pixels import pixels_of
from vitray.inference.schema import SCORED
from vitray.inference.units import cut

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, pictures: list[Image]) -> Path:
    """The pictures as files, in order, with two bad ones among them."""
    inside = tmp_path / "pics" / "bee"
    inside.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        (inside / f"{number:03d}.png").write_bytes(encode_png(picture))
    (inside / "003.png").write_bytes(b"no image")
    (inside / "100.png").write_bytes(encode_png(pictures[100])[:30])
    return tmp_path / "pics"


@pytest.mark.parametrize("package", ["gray", "colour"])
def test_rows_are_the_predictors_answers_in_order(
    package: str, folder: Path, pictures: list[Image], request: pytest.FixtureRequest
) -> None:
    where: Path = request.getfixturevalue(package)
    predictor = Predictor.load(where)
    files = sorted(folder.rglob("*.png"))
    expected = predictor.predict(files, top_k=2)
    inputs = open_inputs([str(folder)], classes=predictor.info.classes)
    threads = torch.get_num_threads()
    for model, decoders, size in (
        (predictor, 0, 64), (predictor, 2, 17), (LoadedModel.load(where).predictor("cpu"), 0, 1000)
    ):  # fmt: skip
        scorer = BatchScorer(model, inputs, top_k=2, decoders=decoders)
        tables = list(in_threads(scorer, cut(inputs.chunks(), size), 2))
        assert all(table.schema == SCORED for table in tables)
        rows = [row for table in tables for row in table.to_pylist()]
        assert [row["path"] for row in rows] == [str(file) for file in files]
        assert [row["label"] for row in rows] == [answer.label for answer in expected]
        assert [row["error"] for row in rows] == [answer.error for answer in expected]
        assert {row["truth"] for row in rows} == {"bee"}
        for row, answer in zip(rows, expected, strict=True):
            if answer.error:
                assert (row["probability"], row["top"]) == (None, None)
            else:
                assert row["probability"] == pytest.approx(answer.probability, abs=1e-6)
                assert [each["label"] for each in row["top"]] == [label for label, _ in answer.top]
                assert [each["probability"] for each in row["top"]] == pytest.approx(
                    [probability for _, probability in answer.top], abs=1e-6
                )
    assert sum(answer.error is not None for answer in expected) == 2
    assert torch.get_num_threads() == threads


def test_no_images_and_only_bad_ones(gray: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    inputs = open_inputs([str(tmp_path / "bad.png")])
    scorer = BatchScorer(Predictor.load(gray), inputs, top_k=99)
    (table,) = in_threads(scorer, cut(inputs.chunks(), 64), 1)
    assert table.to_pylist() == [
        {"path": str(tmp_path / "bad.png"), "label": None, "probability": None, "top": None, "truth": None,
         "error": "not a JPEG or PNG"}
    ]  # fmt: skip
    assert list(in_threads(scorer, [], 1)) == []


def test_any_kind_of_image_is_seen_as_a_prepared_dataset_holds_it(tmp_path: Path) -> None:
    """Transparent, palette, 16-bit, animated, CMYK, rotated, WebP, GIF, BMP, TIFF: the pixels that training reads."""
    rng = np.random.default_rng(0)
    rgba = Pil.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8), "RGBA")
    rgb = rgba.convert("RGB")
    exif = Pil.Exif()
    exif[0x0112] = 6
    made = {
        "alpha.png": rgba, "plain.png": rgb, "palette.png": rgb.quantize(16), "gray.png": rgb.convert("L"),
        "cmyk.jpg": rgb.convert("CMYK"), "a.webp": rgba, "a.gif": rgb.quantize(32), "a.bmp": rgb, "a.tiff": rgb,
    }  # fmt: skip
    source = tmp_path / "in" / "cat"
    source.mkdir(parents=True)
    for name, picture in made.items():
        picture.save(source / name)
    rgb.save(source / "rotated.jpg", exif=exif)
    deep = io.BytesIO()
    Pil.fromarray(rng.integers(0, 65536, (9, 9), dtype=np.uint16)).save(deep, "PNG")
    (source / "deep.png").write_bytes(deep.getvalue())
    files = sorted(source.iterdir())
    prepare(str(tmp_path / "in"), tmp_path / "ds", fractions=(1, 0, 0), executor="local")
    store = ShardStore.open(tmp_path / "ds")
    stored, _ = store.read_rows("train", np.arange(store.num_rows("train")))
    assert len(stored) == len(files)
    trained_on = {stored_pixels(data, 3).tobytes() for data in stored}  # type: ignore[union-attr]
    for file in files:
        assert pixels_of(file.read_bytes(), 3).tobytes() in trained_on, file.name
