"""The class of a failure: what is out of memory, what of the code, what of the workers; and what is tried again."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from vitray.errors import (
    CodeError,
    DataError,
    LostWorkersError,
    NotFiniteError,
    OutOfMemoryError,
    VitrayError,
    failure_class,
)
from vitray.experiment import Experiment
from vitray.train.failures import lost_workers, portable
from vitray.train.memory import rank_images
from vitray.train.messages import Job
from vitray.train.ranks import Ranks
from vitray.train.retry import after_out_of_memory, retry_note

EXPERIMENT = Experiment(data={"path": "x"})


def raised(work: object) -> Exception:
    try:
        work()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def told(error: Exception, folder: Path) -> VitrayError:
    return portable(error, Job(1, EXPERIMENT, str(folder)), Ranks(1, 2))


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.empty(2**52, dtype=torch.uint8),
        lambda: np.empty(2**52, dtype=np.uint8),
        lambda: bytearray(2**52),
    ],
)
def test_what_finds_no_memory_is_out_of_memory_whoever_says_so(work: object, tmp_path: Path) -> None:
    error = told(raised(work), tmp_path)
    assert isinstance(error, OutOfMemoryError)
    assert error.where == "rank 1"
    assert "train.accumulate" in str(error.remedy)


def test_a_gpu_without_memory_is_out_of_memory(tmp_path: Path) -> None:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."
    error = told(torch.OutOfMemoryError(said), tmp_path)
    assert error.failure == "oom"
    assert error.what == "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_a_surprise_is_an_error_of_the_code_with_its_traceback(tmp_path: Path) -> None:
    def share(parts: int) -> float:
        return 1 / parts

    error = told(raised(lambda: share(0)), tmp_path)
    assert isinstance(error, CodeError)
    assert error.what == "ZeroDivisionError: division by zero"
    assert "in share" in (tmp_path / "error-rank1.txt").read_text()


def test_an_error_that_explains_itself_stays_as_it_is(tmp_path: Path) -> None:
    error = DataError("no such shard", where="train/0")
    assert told(error, tmp_path) is error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [OutOfMemoryError, NotFiniteError, LostWorkersError, CodeError, DataError])
def test_a_class_survives_the_way_between_processes(kind: type[VitrayError]) -> None:
    error = kind("what", where="where", remedy="remedy")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.failure, str(back)) == (error.failure, str(error))


def test_every_error_has_a_class() -> None:
    kinds = (OutOfMemoryError, NotFiniteError, LostWorkersError, CodeError, DataError)
    assert [failure_class(kind("x")) for kind in kinds] == ["oom", "nan", "lost", "code", "data"]
    assert failure_class(MemoryError()) == "oom"
    assert failure_class(KeyError("x")) == "code"


def test_a_worker_that_ray_killed_for_its_memory_is_out_of_memory() -> None:
    killed = WorkerHealthCheckFailedError(
        "failed", ray.exceptions.OutOfMemoryError("Task was killed: node low on memory")
    )
    error = lost_workers({1: killed, 0: RuntimeError("gloo: connection closed")})
    assert isinstance(error, OutOfMemoryError)
    assert "killed" in error.what


def test_workers_that_died_otherwise_are_lost() -> None:
    died = WorkerHealthCheckFailedError("a worker died\nmore", ray.exceptions.ActorDiedError())
    error = lost_workers({2: died, 0: died})
    assert isinstance(error, LostWorkersError)
    assert error.what.startswith("lost rank 0, 2: ")
    assert "\n" not in error.what
    assert lost_workers({}).failure == "lost"


@settings(max_examples=40)
@given(batch=st.integers(1, 512), accumulate=st.integers(1, 8), workers=st.integers(1, 4))
def test_retries_halve_the_micro_batch_down_to_one_image_and_keep_the_rest(
    batch: int, accumulate: int, workers: int
) -> None:
    experiment = EXPERIMENT.with_values(
        {"train.global_batch": batch, "train.accumulate": accumulate, "cluster.workers": workers}
    )
    images = rank_images(experiment)
    smaller = after_out_of_memory(experiment)
    if images == 1:
        assert smaller is None
        return
    assert smaller is not None
    assert rank_images(smaller) == -(-images // 2)
    assert smaller.with_values({"train.accumulate": accumulate}) == experiment
    assert f"{rank_images(smaller)} image" in retry_note(smaller)
