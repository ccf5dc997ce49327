"""Scoring into a file, here or on Ray: what suits the size of the work, and everything that is refused before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch

from vitray.cluster.address import named_address
from vitray.cluster.machine import Machine
from vitray.errors import ResourceError
from vitray.inference.batch import BatchScorer, LoadedModel
from vitray.inference.inputs import Inputs
from vitray.inference.predictor import Predictor
from vitray.inference.results import About, finished
from vitray.inference.scoring import Progress, Scored, digest_of, score_into, threads_here
from vitray.inference.units import Unit, unit_images
from vitray.model_size import flops
from vitray.models.package import PackageInfo

Executor = Literal["auto", "local", "ray"]

_CORE_FLOPS, _DECODE_S = 3e10, 5e-4  # of one core, roughly: a model's operations a second, seconds to decode an image
_WORTH_RAY_S = 30.0  # Ray and its workers take 10 to 15 s to start
_UNKNOWN = 1000  # images of a tar file, before anybody has read it
_WORKERS_THERE = 16  # of a cluster that is not joined yet


@dataclass(frozen=True)
class Job:
    """What is to be scored by what, and where. ``model`` is its name for people; ``device=None``: a GPU if any."""

    model: str
    package: Path
    info: PackageInfo
    inputs: Inputs
    top_k: int
    executor: Executor = "auto"
    address: str | None = None
    device: str | None = None


def score_file(
    job: Job,
    to: str,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Scored:
    """Score a job into the file ``to``. One that is finished is not done again; one that was stopped goes on.

    Args:
        tell: called with a sentence about who does the work.

    Raises:
        DataError: ``to`` is or holds another scoring; a source that cannot be read at all.
        ResourceError: a device, a cluster or a CPU on it that is not there.
    """
    chunks = job.inputs.chunks()
    total = sum(_UNKNOWN if chunk.images is None else chunk.images for chunk in chunks)
    about = _about(job, total)
    if not overwrite and (tally := finished(to, about)) is not None:
        return Scored(tally, tally.images, None, 0.0, 0.0)
    run = _on_ray if _wants_ray(job, total) else _here

    def execute(units: Sequence[Unit]) -> AbstractContextManager[Iterator[pa.Table]]:
        return run(job, units, tell)

    return score_into(to, about, chunks, execute, overwrite=overwrite, progress=progress)


def _about(job: Job, total: int) -> About:
    here = Machine.here()
    gpu = job.device.startswith("cuda") if job.device else here.gpus > 0
    workers = _WORKERS_THERE if named_address(job.address) else max(1, here.gpus if gpu else here.cpus)
    size = unit_images(job.info.model, total, workers, gpu=gpu)
    return About(job.model, digest_of(job.package), job.inputs.name, job.inputs.stamp, job.top_k, size)


def _wants_ray(job: Job, total: int) -> bool:
    if job.executor != "auto":
        return job.executor == "ray"
    if named_address(job.address) is not None:
        return True
    seconds = total * (flops(job.info.model).forward / _CORE_FLOPS + _DECODE_S) / Machine.here().cpus
    return seconds > _WORTH_RAY_S and not (job.device or "").startswith("cuda:")


def _on_ray(job: Job, units: Sequence[Unit], tell: Callable[[str], None]) -> AbstractContextManager[Iterator[pa.Table]]:
    from vitray.cluster.scoring import ray_workers  # Ray only where it is needed

    if job.device not in (None, "cpu", "cuda"):
        remedy = "give cuda (or cpu), or --executor local"
        raise ResourceError("Ray chooses its GPUs itself", where=f"device {job.device}", remedy=remedy)
    gpu = None if job.device is None else job.device == "cuda"
    model = LoadedModel.load(job.package)
    return ray_workers(model, job.inputs, units, top_k=job.top_k, gpu=gpu, address=job.address, tell=tell)


def _here(job: Job, units: Sequence[Unit], tell: Callable[[str], None]) -> AbstractContextManager[Iterator[pa.Table]]:
    cpus = Machine.here().cpus
    device = job.device or ("cuda" if torch.cuda.is_available() else "cpu")
    predictor = Predictor.load(job.package, device=device)
    on_cpu = device == "cpu"
    tell(f"{cpus} thread{'s' if cpus > 1 else ''}" if on_cpu else f"{device}, with {cpus} threads to decode")
    scorer = BatchScorer(predictor, job.inputs, top_k=job.top_k, decoders=0 if on_cpu else cpus)
    return threads_here(scorer, cpus if on_cpu else 1, units)
