"""The pyfunc: every way MLflow hands over images, and one real scoring server."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vitray.data.decode import Image, encode_jpeg, encode_png
from vitray.inference.mlflow_model import ImageClassifier, _load_pyfunc
from vitray.tracking import MlflowTracker, registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(gray: Path) -> ImageClassifier:
    return _load_pyfunc(str(gray))


def test_every_form_of_input_has_the_same_answer(model: ImageClassifier, pictures: list[Image], tmp_path: Path) -> None:
    picture = pictures[0][:, :, 0]
    png = encode_png(picture)
    text = base64.b64encode(png).decode()
    file = tmp_path / "digit.png"
    file.write_bytes(png)
    cells: list[Any] = [png, text, f"data:image/png;base64,{text}", str(file), picture, picture.tolist()]
    cells += [base64.encodebytes(png).decode()]  # with line breaks, as MLflow writes its own examples
    expected = model.predict([png])
    for form in (pd.DataFrame({"id": range(7), "image": cells}), pd.Series(cells), cells, {"image": cells}):
        answer = model.predict(form)
        assert list(answer.columns) == ["label", "probability", "top", "error"]
        assert answer["label"].tolist() == expected["label"].tolist() * 7
        assert answer["error"].tolist() == [None] * 7
    for form in (
        np.stack([picture, picture]),
        np.array([png, png], dtype=object),
        pd.DataFrame({"image": [[text] * 2]}),
    ):
        assert model.predict(form)["label"].tolist() == expected["label"].tolist() * 2
    for form in (png, text, picture):
        assert model.predict(form)["label"].tolist() == expected["label"].tolist()
    top = json.loads(expected["top"][0])
    assert top[0] == [expected["label"][0], expected["probability"][0]]
    assert len(top) == 3
    assert len(json.loads(model.predict([png], {"top_k": 1})["top"][0])) == 1


def test_bad_rows_are_answered_in_place_and_as_json(model: ImageClassifier, pictures: list[Image]) -> None:
    png = encode_png(pictures[0])
    rows = pd.DataFrame({"image": [b"junk", png, "no/such.png", [[1], [2, 3]], [[1, 300]], None]}, index=list("abcdef"))
    answer = model.predict(rows)
    assert list(answer.index) == list("abcdef")
    assert answer["label"].notna().tolist() == [False, True, False, False, False, False]
    assert answer["error"].notna().tolist() == [True, False, True, True, True, True]
    text = json.dumps(answer.to_dict(orient="records"), allow_nan=False)  # NaN is not JSON
    assert json.loads(text)[0]["probability"] is None


@pytest.fixture
def served(gray: Path, tmp_path: Path) -> Any:
    """The address of ``mlflow models serve`` on a registered champion, as the README says to start it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = MlflowTracker(uri, tmp_path / "spool", tmp_path / "artifacts")
    tracker.start_run("r", name="r", experiment="e", params={}, tags={})
    tracker.end_run("r", "FINISHED")
    assert tracker.flush(60)
    tracker.close()
    registry.register_model(uri, name="digits", package=gray, run="r", tags={}, description="")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", "models:/digits@champion", "--env-manager", "local", "-p", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    # It calls `uvicorn` by name, so the environment's own programs must be on the PATH, as in an activated one.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            env={**environment, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            assert server.poll() is None, (tmp_path / "serve.log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_mlflow_models_serve_answers_real_files(served: str, model: ImageClassifier, pictures: list[Image]) -> None:
    pngs = [*(encode_png(p) for p in pictures[:4]), encode_jpeg(pictures[4], 90)]
    texts = [base64.b64encode(png).decode() for png in pngs]

    def ask(body: dict[str, Any]) -> list[dict[str, Any]]:
        request = urllib.request.Request(served, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: list[dict[str, Any]] = json.loads(response.read(), parse_constant=pytest.fail)["predictions"]
        return answer

    expected = model.predict(pngs)["label"].tolist()
    records = [{"image": text} for text in texts]
    split = {"columns": ["image"], "data": [[text] for text in [*texts, "bm90IGFuIGltYWdl"]]}
    assert [row["label"] for row in ask({"dataframe_records": records})] == expected
    assert [row["label"] for row in ask({"dataframe_split": split})] == [*expected, None]
    assert ask({"dataframe_split": split})[-1]["error"] == "not a JPEG or PNG"
    assert [row["label"] for row in ask({"inputs": {"image": texts}})] == expected
    gray = {"image": pictures[0][:, :, 0].tolist()}
    (row,) = ask({"dataframe_records": [gray], "params": {"top_k": 2}})
    assert row["label"] == expected[0]
    assert len(json.loads(row["top"])) == 2
