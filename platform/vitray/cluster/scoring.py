"""Batch scoring as a Ray Data job: one model a worker, units of images streamed through, answers back in order.

A unit is a block of a few bytes that says which images; the worker that gets it reads, decodes and classifies them.
So no pixel passes through Ray, and memory is what the workers hold, however many images there are.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from vitray.cluster.local import Cluster, connect
from vitray.data.ray_context import PATIENCE_S, check_room, quiet
from vitray.data.ray_reach import check_readable
from vitray.errors import LostWorkersError, ResourceError, VitrayError
from vitray.inference.batch import BatchScorer, LoadedModel
from vitray.inference.inputs import Inputs
from vitray.inference.scoring import READY
from vitray.inference.units import Unit
from vitray.model_size import count_parameters

_WORKER_BYTES = 2**30  # what a process with torch and a few batches takes beside its model
_MEMORY_SHARE = 0.6  # of a machine's
_PLACES = 3  # of the inputs that are looked for on all machines
_DECODERS = 8  # threads a GPU at most: more decode than it classifies
# Ray says so of every actor of Ray Data's that may be restarted; the arguments stay as long as this process.
_WARNING = b"has constructor arguments in the object store"
_RAISED = re.compile(r"[A-Za-z_.]*(?:Error|Exception): ")
_RETRIES = 3  # of a unit whose worker died: an image that kills decoders must not do so for ever


@dataclass(frozen=True)
class Workers:
    """How many workers, and what each has. ``threads``: of its forward pass; ``decoders``: threads beside it."""

    count: int
    cpus: float
    gpu: bool
    threads: int
    decoders: int

    def describe(self) -> str:
        unit = "1 GPU and " if self.gpu else ""
        return f"{self.count} worker{'s' if self.count > 1 else ''} with {unit}{self.cpus:g} CPU"


def plan_workers(cluster: Cluster, model_bytes: int, *, gpu: bool | None, units: int) -> Workers:
    """A worker a GPU where there are any (or ``gpu`` says so), else a worker a core, as far as memory goes.

    On CPUs a forward pass on one core each is the fastest: passes on several wait for each other.

    Raises:
        ResourceError: a GPU is wanted and there is none, or no CPU.
    """
    if gpu and cluster.gpus < 1:
        remedy = "leave --device out, or name a cluster that has GPUs"
        raise ResourceError("has no GPU", where=f"Ray ({cluster.address})", remedy=remedy)
    if cluster.cpus < 1:
        raise ResourceError("has no CPU", where=f"Ray ({cluster.address})", remedy="add a node with CPUs")
    if gpu or (gpu is None and cluster.gpus >= 1):
        count = max(1, min(int(cluster.gpus), units))
        cpus = max(1, min(int(cluster.cpus / cluster.gpus), _DECODERS))
        return Workers(count, cpus, True, 1, cpus)
    count = int(cluster.cpus)
    if cluster.node_memory is not None:
        fit = int(_MEMORY_SHARE * cluster.node_memory / (_WORKER_BYTES + model_bytes))
        count = min(count, max(1, int(fit * cluster.cpus / cluster.node_cpus)))
    cpus = max(1, int(min(cluster.cpus / count, cluster.node_cpus)))
    return Workers(max(1, min(count, units)), cpus, False, cpus, 0)


@contextmanager
def ray_workers(
    model: LoadedModel,
    source: Inputs,
    units: Sequence[Unit],
    *,
    top_k: int,
    gpu: bool | None = None,
    address: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Iterator[pa.Table]]:
    """The tables of the units, in order, from workers on the cluster at ``address`` or a local Ray of its own.

    Args:
        gpu: None takes GPUs where there are some.
        tell: called with a sentence about the workers.

    Raises:
        ResourceError: no cluster there, or nothing free on it.
        DataError: the images lie on a disk that not all its machines see.
        LostWorkersError: a unit's worker died again and again.
    """
    with (
        connect(address) as cluster,
        workers_of(cluster, model, source, units, top_k=top_k, gpu=gpu, tell=tell) as tables,
    ):
        yield tables


@contextmanager
def workers_of(
    cluster: Cluster,
    model: LoadedModel,
    source: Inputs,
    units: Sequence[Unit],
    *,
    top_k: int,
    gpu: bool | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Iterator[pa.Table]]:
    """As :func:`ray_workers`, on a cluster that this process is connected to."""
    workers = plan_workers(cluster, 4 * count_parameters(model.info.model), gpu=gpu, units=len(units))
    check_room(
        workers.cpus,
        what="scoring",
        where=f"Ray ({cluster.address})",
        remedy="end what else runs there, wait for it, or leave --address out to use this machine",
        patience=PATIENCE_S,
    )
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    if len(nodes) > 1:
        for place in source.places[:_PLACES]:
            check_readable(place, nodes)
    tell(workers.describe())
    with quiet(), closing(_tables(_pipeline(model, source, units, workers, top_k))) as tables:
        yield tables


def _pipeline(
    model: LoadedModel, source: Inputs, units: Sequence[Unit], workers: Workers, top_k: int
) -> ray.data.Dataset:
    blocks = [pa.table({"unit": pa.array([pickle.dumps(unit)], pa.large_binary())}) for unit in units]
    dataset = ray.data.from_arrow(blocks)
    context = dataset.context
    context.target_max_block_size = None  # else blocks are merged and sliced: a unit is a block, and so is its answer
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with warnings.catch_warnings():
        # There is no other way yet to say that a unit is not tried for ever; pyproject.toml pins Ray below 2.61.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map_batches(
            _Worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers.count),
            fn_constructor_args=(ray.put(model), source, top_k, workers),
            num_cpus=workers.cpus,
            num_gpus=1 if workers.gpu else None,
            max_restarts=-1,
            max_task_retries=_RETRIES,
        )


class _Worker:
    """What Ray Data keeps one of in each worker process."""

    def __init__(self, model: Any, source: Inputs, top_k: int, workers: Workers) -> None:
        import torch

        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes weights
        torch.set_num_threads(workers.threads)
        predictor = ray.get(model).predictor("cuda" if workers.gpu else "cpu")
        self._scorer = BatchScorer(predictor, source, top_k=top_k, decoders=workers.decoders)
        self._ready = {READY: str(time.time())}

    def __call__(self, block: pa.Table) -> pa.Table:
        answers = [pickle.dumps(self._answer(pickle.loads(unit.as_buffer()))) for unit in block["unit"]]
        return pa.table({"answer": pa.array(answers, pa.large_binary())})

    def _answer(self, unit: Unit) -> pa.Table | VitrayError:
        try:
            return self._scorer.score(unit).replace_schema_metadata(self._ready)
        except VitrayError as error:  # raised here, Ray would try again and print it
            return error


def _tables(dataset: ray.data.Dataset) -> Generator[pa.Table, None, None]:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # put back by quiet(); what fails is raised here, once
    try:
        with _without(_WARNING):
            bundles = iter(dataset.iter_internal_ref_bundles())  # makes the actors, and waits for the first answer
        for bundle in bundles:
            for reference in bundle.block_refs:
                for answer in ray.get(reference)["answer"]:
                    table = pickle.loads(answer.as_buffer())
                    if isinstance(table, VitrayError):
                        raise table
                    yield table
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
        if (reason := _not_started(error)) is not None:
            remedy = "vitray and the model's device must be there on all machines of the cluster"
            raise LostWorkersError(f"a worker did not start: {reason}", remedy=remedy) from error
        raise LostWorkersError(
            f"a worker died {_RETRIES + 1} times at the same images",
            remedy="what is done is kept; look at the machine's memory (dmesg), and run the same command again",
        ) from error


def _not_started(error: Exception) -> str | None:
    """What a worker's start raised, out of the text that Ray makes of it; None where it had started."""
    if "creation task" not in str(error):
        return None
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if _RAISED.match(line)), lines[0])


@contextmanager
def _without(words: bytes) -> Iterator[None]:
    """Drop the lines with these words among those that Ray's own core, which has no logger, prints meanwhile."""
    sys.stderr.flush()
    kept, (reader, writer) = os.dup(2), os.pipe()

    def copy() -> None:
        with open(reader, "rb") as lines:  # noqa: PTH123  # a descriptor, no path
            for line in lines:
                if words not in line:
                    os.write(kept, line)

    thread = threading.Thread(target=copy, daemon=True, name="vitray-ray-stderr")
    thread.start()
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)  # closes the pipe's last end, so the thread comes to its own
        thread.join(timeout=5)
        os.close(kept)
