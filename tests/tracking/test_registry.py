"""The registry on a real store: registered once, found by every name it has, and nothing run or pickled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitray.errors import DataError, StoreAwayError, TrackingError
from vitray.tracking import registration as writing
from vitray.tracking import registry
from vitray.tracking.ask_versions import ask_versions
from vitray.tracking.mlflow_client import connect
from vitray.tracking.versions import read_versions

pytestmark = pytest.mark.slow
Register = Callable[..., int]


def test_registering_twice_is_registering_once(uri: str, register: Register) -> None:
    assert register() == 1
    assert register() == 1
    assert register("sweep-b") == 2
    first, second = reversed(registry.list_models(uri))
    assert (first.version, first.aliases, second.version, second.aliases) == (1, (), 2, ("champion",))
    assert first.run == "sweep-a"
    assert first.metrics == {"test/accuracy": 0.97}
    assert first.model["pos_encoding"] == "rope_2d"
    assert int(first.tags["vitray.parameters"]) > 1000
    assert first.tags["vitray.dataset_fingerprint"] == "f" * 64
    assert first.description == "Digits, 8x8."


def test_a_repeat_does_not_undo_a_promotion(uri: str, register: Register) -> None:
    register("sweep-a")
    register("sweep-b")
    assert registry.set_alias(uri, "digits", 1, "champion").aliases == ("champion",)
    assert register("sweep-b") == 2
    assert registry.resolve(uri, "models:/digits@champion").version == 1


STEPS = [
    "create_logged_model",
    "log_model_artifacts",
    "log_outputs",
    "finalize_logged_model",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "set_model_version_tag",
]


@pytest.mark.parametrize("step", STEPS)
def test_killed_after_any_step(uri: str, register: Register, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class MortalClient:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                answer = getattr(self._real, name)(*args, **kwargs)
                if name == step:
                    raise KeyboardInterrupt
                return answer

            return call

    with monkeypatch.context() as patch:
        patch.setattr(writing, "connect", lambda *args: MortalClient(connect(*args)))
        with pytest.raises(KeyboardInterrupt):
            register()
    assert register() == 1
    (version,) = registry.list_models(uri)
    assert version.aliases == ("champion",)
    client = connect(uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    (model,) = client.search_logged_models([experiment])
    assert str(model.status) == "READY"
    assert {m.key: m.value for m in model.metrics} == {"test/accuracy": 0.97}
    run = client.get_run(version.run_id)
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert len(client.get_metric_history(version.run_id, "test/accuracy")) == 1  # the run gained no point
    assert (registry.download("models:/digits@champion", tracking_uri=uri) / "model.json").is_file()


def test_the_quick_way_reads_what_mlflow_reads(uri: str, home: Path, register: Register) -> None:
    register("sweep-a")
    register("sweep-b", name="other", alias=None)
    quick = read_versions(home / "mlflow.db")
    assert quick is not None
    assert sorted(quick, key=lambda v: v.uri) == sorted(ask_versions(uri), key=lambda v: v.uri)
    (home / "strange.db").write_bytes(b"")
    assert read_versions(home / "strange.db") is None


def test_unknown_names_are_answered_with_the_nearest(uri: str, register: Register) -> None:
    register()
    for reference, expected in {
        "models:/digit@champion": "did you mean 'digits'",
        "models:/digits@champoin": "did you mean 'champion'",
        "models:/digits/7": "there are: digits/1, digits@champion",
        "models:/digits": "one of: digits/1, digits@champion",
        "models:/a/b/c": "models:/NAME@alias",
    }.items():
        with pytest.raises(TrackingError) as error:
            registry.download(reference, tracking_uri=uri)
        assert expected in str(error.value)
        assert error.value.exit_code == 2
    with pytest.raises(TrackingError, match="registry sqlite"):
        registry.resolve(uri, "models:/digit@champion")
    with pytest.raises(TrackingError, match="no version 9"):
        registry.set_alias(uri, "digits", 9, "champion")
    with pytest.raises(TrackingError, match="MLflow refused"):
        registry.set_alias(uri, "digits", 1, "v1")  # MLflow keeps v1, v2, ... for versions
    assert registry.show_model(uri, "digits").uri == "models:/digits/1"


def test_an_empty_place_stays_empty(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/none/mlflow.db"
    assert registry.list_models(uri) == []
    with pytest.raises(TrackingError, match="there is no model"):
        registry.resolve(uri, "models:/digits@champion")
    assert list(tmp_path.iterdir()) == []


def test_no_answer_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="does not answer") as error:
        registry.list_models("http://127.0.0.1:9")
    assert "MLFLOW_TRACKING_URI" in str(error.value)
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TrackingError, match="does not answer"):
        registry.list_models(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_run_that_was_not_delivered_is_said_so(uri: str, package: Path, register: Register) -> None:
    with pytest.raises(StoreAwayError, match="does not have the run") as error:  # not yet: it may be on its way
        registry.register_model(uri, name="digits", package=package, run="nobody", tags={}, description="")
    assert "flush" in str(error.value)
    with pytest.raises(DataError, match="not a model package"):
        register(package=package.parent)
    assert registry.list_models(uri) == []


def test_download_copies_whole_folders(uri: str, package: Path, register: Register, tmp_path: Path) -> None:
    register()
    target = registry.download("models:/digits/1", tmp_path / "new" / "copy", tracking_uri=uri)
    assert sorted(p.name for p in target.iterdir()) == ["model.json", "model.safetensors"]
    assert (target / "model.safetensors").read_bytes() == (package / "model.safetensors").read_bytes()
    assert registry.download(str(target)) == target
    with pytest.raises(TrackingError, match="something already"):
        registry.download("models:/digits/1", target, tracking_uri=uri)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["copy"]
    with pytest.raises(DataError, match="did you mean models:/digits@champion"):
        registry.download("digits@champion")
    with pytest.raises(DataError, match="is not a model"):
        registry.download(str(tmp_path))


PLAIN_MLFLOW = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/digits@champion")
png = open(sys.argv[1], "rb").read()
answer = model.predict(pandas.DataFrame({"image": [png, b"rubbish", sys.argv[1]]}), params={"top_k": 2})
print(json.dumps(answer.to_dict(orient="list")))
"""


@pytest.mark.slow
def test_plain_mlflow_loads_it_with_pickle_forbidden(uri: str, register: Register, tmp_path: Path) -> None:
    register()
    folder = registry.download("models:/digits/1", tracking_uri=uri).parents[1]
    assert not [p for p in folder.rglob("*") if p.suffix in (".py", ".pkl", ".pickle", ".pt", ".pth", ".bin")]
    signature = (folder / "MLmodel").read_text()
    assert '"name": "image"' in signature
    assert (folder / "input_example.json").is_file()
    from vitray.tracking.pyfunc_artifact import _example

    png = tmp_path / "digit.png"
    png.write_bytes(_example(json.loads((folder / "data" / "package" / "model.json").read_text())))
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_MLFLOW, str(png)],
        env={**environment, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["label"][0] == answer["label"][2]
    assert (answer["label"][1], answer["probability"][1]) == (None, None)
    assert "JPEG or PNG" in answer["error"][1]
    assert len(json.loads(answer["top"][0])) == 2
