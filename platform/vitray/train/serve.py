"""A rank's life: take a job from the mailbox, run it, clean up, take the next."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import get_device

from vitray.data.images import ShardedImages
from vitray.data.stream import StreamOptions
from vitray.errors import TrainingError, VitrayError
from vitray.experiment import Experiment
from vitray.train.checkpoint import CheckpointStore
from vitray.train.compiling import forget_compiled
from vitray.train.feed import Feed
from vitray.train.loop import fit
from vitray.train.mailbox import Job
from vitray.train.ranks import Ranks, lost_peer
from vitray.train.report import Report
from vitray.train.resources import GroupPlan

_POLL_S = 30.0  # how long a rank waits in one call; it asks again until the group closes


@dataclass(frozen=True)
class ServeConfig:
    """What a rank needs to know before any job: where jobs come from, and what it may take."""

    mailbox: Any
    plan: GroupPlan


class _MailboxReporter:
    """The first rank's reporter: every word goes through the mailbox."""

    def __init__(self, mailbox: Any, number: int) -> None:
        self._mailbox, self._number = mailbox, number

    def report(self, report: Report) -> bool:
        return bool(ray.get(self._mailbox.report.remote(self._number, report)))

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self._mailbox.progress.remote(step, values)


def serve(settings: dict[str, Any]) -> None:
    """Ray Train's training function: serves jobs until the mailbox closes."""
    config: ServeConfig = settings["config"]
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), get_device())
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    gc.collect()
    gc.freeze()  # what is imported now stays; collections between jobs need not look at it
    number = 0
    while True:
        job = ray.get(config.mailbox.take.remote(ranks.rank, number, _POLL_S))
        if job is None:
            return
        if isinstance(job, Job):
            number = job.number
            _run(job, ranks, config)


def _run(job: Job, ranks: Ranks, config: ServeConfig) -> None:
    mailbox = config.mailbox
    torch.set_num_threads(config.plan.threads)
    try:
        run_job(
            job,
            ranks,
            _MailboxReporter(mailbox, job.number),
            StreamOptions(
                executor="ray",
                cache=job.experiment.data.cache,
                cache_bytes=job.experiment.data.cache_bytes,
                task_cpus=config.plan.task_cpus,
                workers=config.plan.data_workers,
                prefetch=_prefetch(job.experiment, config.plan),
                max_bad_fraction=job.experiment.data.max_bad_fraction,
                near=_room_here(config.plan),
                ranks_here=_ranks_here(config.plan),
            ),
        )
    except Exception as error:
        if lost_peer(error):
            raise  # Ray Train restarts the group, and the mailbox offers the job again
        ray.get(mailbox.fail.remote(job.number, _portable(error, job, ranks)))
        if ranks.world_size > 1 and not isinstance(error, TrainingError):
            # The other ranks may wait for this one in a collective; only a restart of the group frees them.
            raise
    else:
        ray.get(mailbox.finish.remote(job.number, ranks.rank, ranks.world_size))
    finally:
        gc.collect()
        if ranks.device.type == "cuda":
            torch.cuda.empty_cache()


def _prefetch(experiment: Experiment, plan: GroupPlan) -> int:
    wanted = experiment.data.prefetch
    return max(2, plan.data_workers) if wanted == "auto" else wanted


def _ranks_here(plan: GroupPlan) -> int:
    """Ranks on this node, if all groups have as many on it as this one."""
    return plan.groups * int(ray.train.get_context().get_local_world_size())


def _room_here(plan: GroupPlan) -> bool:
    """Whether this node has CPUs for the data tasks of all ranks on it."""
    node = ray.get_runtime_context().get_node_id()
    cpus = next((info["Resources"].get("CPU", 0.0) for info in ray.nodes() if info["NodeID"] == node), 0.0)
    ranks = _ranks_here(plan)
    return bool(ranks * (plan.rank_cpus + plan.data_workers * plan.task_cpus) <= cpus)


def run_job(job: Job, ranks: Ranks, reporter: Any, options: StreamOptions) -> None:
    """Train a job's experiment into its run folder."""
    feed = Feed(job.experiment, ShardedImages.open(job.experiment.data.path), ranks, options)
    store = CheckpointStore(Path(job.run_dir) / "checkpoints", keep=job.experiment.train.keep_checkpoints)
    try:
        fit(feed, ranks, reporter, store)
    finally:
        store.close()
        if job.experiment.train.compile:
            forget_compiled()


def _portable(error: Exception, job: Job, ranks: Ranks) -> VitrayError:
    """An error that every process can unpickle; the traceback of a surprise is kept in the run's folder."""
    if isinstance(error, VitrayError):
        return error
    trace = Path(job.run_dir) / f"error-rank{ranks.rank}.txt"
    trace.parent.mkdir(parents=True, exist_ok=True)
    trace.write_text(traceback.format_exc())
    return TrainingError(f"{type(error).__name__}: {error}", where=f"rank {ranks.rank}", remedy=f"traceback: {trace}")
