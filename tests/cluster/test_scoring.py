"""Batch scoring by Ray workers: the rows of one process, also when a worker is killed on the way."""

from __future__ import annotations

import io
import os
import signal
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from vitray.cluster.local import Cluster
from vitray.cluster.scoring import plan_workers, workers_of
from vitray.data.decode import encode_png
from vitray.data.sources.source import Chunk, Item
from vitray.errors import DataError, ResourceError
from vitray.experiment import ModelConfig
from vitray.inference.batch import BatchScorer, LoadedModel
from vitray.inference.inputs import Inputs, open_inputs
from vitray.inference.units import cut
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo

CLASSES = ("ant", "bee", "cat")


class Fatal(Inputs):
    """Inputs of which one image kills the process that reads it, the first time."""

    def __init__(self, inputs: Inputs, marker: Path) -> None:
        vars(self).update(vars(inputs))
        self._marker = marker

    def items(self, chunk: Chunk) -> Iterator[Item]:
        for item in Inputs.items(self, chunk):  # super() does not survive pickling by value
            if item.key.endswith("0100.png") and not self._marker.exists():
                self._marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


@pytest.fixture(autouse=True)
def _by_value() -> Iterator[None]:
    """Workers cannot import this file."""
    here = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(here)
    yield
    ray.cloudpickle.unregister_pickle_by_value(here)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.manual_seed(0)
    shape = {"image_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3}
    config = ModelConfig(**shape, embed_dim=16, depth=1, num_heads=2)
    network = VisionTransformer(config)
    torch.nn.init.normal_(network.head.weight, std=2.0)
    info = PackageInfo(model=config, classes=CLASSES, mean=(0.3,), std=(0.4,), dataset_fingerprint="f" * 64)
    return LoadedModel({name: tensor.numpy() for name, tensor in network.state_dict().items()}, info)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(200):
        picture = rng.integers(0, 256, (9, 7), dtype=np.uint8)
        (folder / f"{number:04d}.png").write_bytes(encode_png(picture) if number % 50 else b"bad")
    return folder


@pytest.mark.ray
def test_rows_are_those_of_one_process_though_a_worker_was_killed(
    cluster: Cluster, model: LoadedModel, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = open_inputs([str(pictures)])
    units = cut(inputs.chunks(), 32)
    here = BatchScorer(model.predictor("cpu"), inputs, top_k=2)
    expected = [here.score(unit) for unit in units]
    said: list[str] = []
    fatal = Fatal(inputs, tmp_path / "died")
    with workers_of(cluster, model, fatal, units, top_k=2, tell=said.append) as tables:
        found = list(tables)
    assert (tmp_path / "died").exists()
    assert said == [f"{min(len(units), int(cluster.cpus))} workers with 1 CPU"]
    for table, other in zip(found, expected, strict=True):
        assert table.select(["path", "label", "truth", "error"]) == other.select(["path", "label", "truth", "error"])
        assert np.allclose(table["probability"].to_numpy(), other["probability"].to_numpy(), equal_nan=True)
    assert "constructor arguments" not in capfd.readouterr().err


@pytest.mark.ray
def test_a_source_that_breaks_is_one_error_with_its_place(
    cluster: Cluster, model: LoadedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "cut.tar", "w") as archive:
        info = tarfile.TarInfo("1.png")
        info.size = 9
        archive.addfile(info, io.BytesIO(b"no image!"))
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:1024])  # between a member and the end mark
    inputs = open_inputs([str(tmp_path / "cut.tar")])
    with (
        pytest.raises(DataError, match=r"cut\.tar: .*truncated tar"),
        workers_of(cluster, model, inputs, cut(inputs.chunks(), 32), top_k=1) as tables,
    ):
        list(tables)
    assert "Traceback" not in capfd.readouterr().err


def test_workers_are_as_many_as_cores_gpus_and_memory_allow() -> None:
    small = Cluster("local", cpus=8, gpus=0, node_cpus=8, node_memory=64 * 2**30)
    workers = plan_workers(small, 10**8, gpu=None, units=100)
    assert (workers.count, workers.cpus, workers.threads, workers.decoders) == (8, 1, 1, 0)
    assert plan_workers(small, 10**8, gpu=None, units=3).count == 3
    tight = plan_workers(replace(small, node_memory=8 * 2**30), 10**9, gpu=None, units=100)
    assert tight.count * tight.cpus <= 8
    assert tight.count < 8
    assert tight.threads == tight.cpus > 1
    gpus = replace(small, gpus=2)
    workers = plan_workers(gpus, 10**8, gpu=None, units=100)
    assert (workers.count, workers.gpu, workers.cpus, workers.decoders) == (2, True, 4, 4)
    assert plan_workers(gpus, 10**8, gpu=False, units=100).count == 8
    assert "2 workers with 1 GPU and 4 CPU" in workers.describe()
    with pytest.raises(ResourceError, match="has no GPU"):
        plan_workers(small, 10**8, gpu=True, units=100)
