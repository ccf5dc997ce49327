"""A rank's life: take a job from the mailbox, run it, clean up, take the next."""

from __future__ import annotations

import gc
import logging
import threading
import time
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
from vitray.experiment import Experiment
from vitray.train.checkpoint import CheckpointStore
from vitray.train.checkpoint_place import place_of
from vitray.train.clean import Settings, let_go
from vitray.train.compiling import forget_compiled
from vitray.train.failures import portable
from vitray.train.feed import Feed
from vitray.train.leaving import Answer, Leaving
from vitray.train.loop import fit
from vitray.train.messages import Job, RankEnd
from vitray.train.nodes import nodes_now
from vitray.train.ranks import Ranks, lost_peer
from vitray.train.report import Report
from vitray.train.resources import GroupPlan
from vitray.train.whereabouts import IDLE, Pulse, Whereabouts

_POLL_S = 30.0  # how long a rank waits in one call; it asks again until the group closes
_BEAT_S, _BEATS_A_S = 2.0, 200.0  # between two pulses of a rank, and how many of all of them in a second


@dataclass(frozen=True)
class ServeConfig:
    """What a rank needs to know before any job: where jobs come from, and what it may take."""

    mailbox: Any
    plan: GroupPlan


class _MailboxReporter:
    """The first rank's reporter: every word goes through the mailbox."""

    def __init__(self, mailbox: Any, job: Job) -> None:
        self._mailbox, self._number, self._attempt = mailbox, job.number, job.attempt

    def begin(self, step: int, world_size: int) -> None:
        self._mailbox.begin.remote(self._number, step, world_size)

    def report(self, report: Report) -> bool:
        return bool(ray.get(self._mailbox.report.remote(self._number, report, self._attempt)))

    def note(self, text: str) -> None:
        self._mailbox.note.remote(text)

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self._mailbox.progress.remote(step, values)


def serve(given: dict[str, Any]) -> None:
    """Ray Train's training function: serves jobs until the mailbox closes."""
    config: ServeConfig = given["config"]
    context = ray.train.get_context()
    world, here = context.get_world_size(), context.get_local_world_size()
    ranks = Ranks(context.get_world_rank(), world, get_device(), nodes=-(-world // here))
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    gc.collect()
    gc.freeze()  # what is imported now stays; collections between jobs need not look at it
    torch.set_num_threads(config.plan.threads)
    settings, leaving, whereabouts = Settings(), Leaving(), Whereabouts()
    threading.Thread(target=_beat, args=(config.mailbox, ranks, whereabouts), daemon=True, name="vitray-pulse").start()
    threading.Thread(target=_listen, args=(config.mailbox, ranks, leaving), daemon=True, name="vitray-listen").start()
    number = 0
    while True:
        job = ray.get(config.mailbox.take.remote(ranks.rank, number, _POLL_S))
        if job is None:
            return
        if isinstance(job, Job):
            number = job.number
            leaving.begin(number)
            try:
                _run(job, ranks, config, leaving, whereabouts)
            finally:
                whereabouts.at(IDLE, 0)
                settings.put_back()
                let_go(ranks.device)


def _listen(mailbox: Any, ranks: Ranks, leaving: Leaving) -> None:
    """Hear when to leave, beside the training, for as long as the rank lives."""
    seen = 0
    answer: Answer | None = None
    try:
        while True:
            said = ray.get(mailbox.listen.remote(ranks.rank, ranks.world_size, answer, seen, _POLL_S))
            if said is None:
                return
            if said == "wait":
                answer = None
            else:
                seen, answer = said.version, leaving.hear(said)
    except Exception as error:  # the mailbox is dead, and so is the group
        leaving.fail(error)


def _beat(mailbox: Any, ranks: Ranks, whereabouts: Whereabouts) -> None:
    """Tell where the loop is, beside it, for as long as the rank lives. Nobody waits for an answer."""
    last: Pulse | None = None
    while True:
        last = whereabouts.pulse(ranks.rank, ranks.collectives, last)
        mailbox.pulse.remote(last)
        time.sleep(max(_BEAT_S, ranks.world_size / _BEATS_A_S))


def _run(job: Job, ranks: Ranks, config: ServeConfig, leaving: Leaving, whereabouts: Whereabouts) -> None:
    mailbox, plan = config.mailbox, _plan_here(job.experiment, config.plan, ranks)
    reporter = _MailboxReporter(mailbox, job)
    torch.set_num_threads(job.experiment.cluster.threads or plan.threads)
    try:
        run_job(
            job,
            ranks,
            reporter,
            StreamOptions(
                executor="ray",
                cache=job.experiment.data.cache,
                cache_bytes=job.experiment.data.cache_bytes,
                task_cpus=plan.task_cpus,
                workers=plan.data_workers,
                prefetch=_prefetch(job.experiment, plan),
                max_bad_fraction=job.experiment.data.max_bad_fraction,
                near=_room_here(plan),
                ranks_here=_ranks_here(plan),
                tell=reporter.note,
            ),
            leaving,
            whereabouts,
        )
    except Exception as error:
        if lost_peer(error):
            raise  # Ray Train restarts the group, and the mailbox offers the job again
        if not ray.get(mailbox.fail.remote(job.number, portable(error, job, ranks), _end(ranks, job))):
            # Other ranks wait for this one in a collective; only a restart of the group frees them.
            raise
    else:
        if leaving.left_at is not None:
            ray.get(mailbox.left.remote(job.number, _end(ranks, job), leaving.left_at))
        else:
            ray.get(mailbox.finish.remote(job.number, _end(ranks, job)))


def _plan_here(experiment: Experiment, plan: GroupPlan, ranks: Ranks) -> GroupPlan:
    """The plan of an elastic group for as many ranks as there are, on the nodes that there are."""
    if not plan.elastic:
        return plan
    cpus = {node.id: node.total.get("CPU", 0.0) for node in nodes_now() if not node.going}
    return plan.for_ranks(
        ranks.world_size,
        cpus=sum(cpus.values()),
        here=cpus.get(ray.get_runtime_context().get_node_id(), 1.0),
        ranks_here=_ranks_here(plan),
        data_workers=experiment.data.workers,
    )


def _end(ranks: Ranks, job: Job) -> RankEnd:
    return RankEnd(ranks.rank, ranks.world_size, ranks.collectives, job.attempt)


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


def run_job(
    job: Job, ranks: Ranks, reporter: Any, options: StreamOptions, leaving: Leaving, whereabouts: Whereabouts
) -> None:
    """Train a job's experiment into its run folder."""
    images = ShardedImages.open(job.experiment.data.path, check=False)  # the driver has looked at every shard
    feed = Feed(job.experiment, images, ranks, options)
    store = CheckpointStore(
        job.place or place_of(Path(job.run_dir)),
        keep_last=job.experiment.train.keep_last,
        keep_best=job.experiment.train.keep_best,
        attempt=job.earlier + job.attempt,
        tell=reporter.note,
    )
    try:
        fit(feed, ranks, reporter, store, job.known_epoch, leaving, whereabouts)
    finally:
        store.close()
        if job.experiment.train.compile:
            forget_compiled()
