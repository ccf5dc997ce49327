"""What some tests do in processes of their own. All are forked from one clean server, so torch is imported once."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from small_runs import small_experiment, small_feed, small_state, tensors_of, train

from vitray.data.unit import Batch
from vitray.errors import VitrayError
from vitray.experiment import Experiment
from vitray.train.checkpoint import CheckpointStore, Progress
from vitray.train.evaluate import evaluate
from vitray.train.feed import Feed
from vitray.train.leaving import Leaving, Notice
from vitray.train.loop import fit, fresh_state
from vitray.train.ranks import Ranks
from vitray.train.report import RecordingReporter

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["vitray.train.loop", "torch._dynamo", "pytest"])


def write_checkpoints(folder: Path, first: int, committed: Connection) -> None:
    """Save step after step for ever, and tell which are committed."""
    torch.set_num_threads(1)
    store = CheckpointStore(folder)
    for step in range(first, 10**6):
        state, info = small_state(step, ema=True)
        store.save(state, Progress(step, best=0.5, best_step=step // 5 * 5), info)
        store.wait()
        committed.send(step)


def train_as_rank(rank: int, world_size: int, folder: Path, data: Path, runs: list[dict[str, Any]], out: Any) -> None:
    """Train each of some experiments as one rank, evaluate fresh weights, and put what came of it into ``out``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    ranks = Ranks(rank, world_size)
    losses, scores = [], []
    for number, values in enumerate(runs):
        experiment = small_experiment(data, **values)
        reports = train(experiment, folder / f"run-{number}", ranks=ranks)
        losses.append([report.metrics["train/loss"] for report in reports])
        feed, model = small_feed(experiment, ranks), fresh_state(experiment, ranks).model
        scores.append(
            {split: dict(evaluate(model, feed.evaluation(split), feed.to_input, ranks)) for split in ("val", "test")}
        )
    out.put((rank, losses, scores))
    dist.destroy_process_group()


class WithLedger(Feed):
    """Writes down who took which samples in which step."""

    ledger: Path

    def train(self, start: int, stop: int) -> Iterator[Batch]:
        with self.ledger.open("a") as ledger:
            for batch in super().train(start, stop):
                row = (batch.step, self.ranks.rank, self.ranks.world_size, batch.sample_id[batch.weight > 0].tolist())
                print(json.dumps(row), file=ledger, flush=True)
                yield batch


def train_stretch(experiment: Experiment, folder: Path, ranks: Ranks, leave_after: int) -> None:
    """Go on from the newest checkpoint until a step, and leave there."""
    leaving = Leaving()
    leaving.begin(1)
    leaving.hear(Notice(1, 1, leave_after, agreed=True))
    plain = small_feed(experiment, ranks)
    feed = WithLedger(experiment, plain.data, ranks, plain.options)
    object.__setattr__(feed, "ledger", folder / f"ledger-{ranks.rank}-of-{ranks.world_size}")
    store = CheckpointStore(folder, keep_last=experiment.train.keep_last)
    fit(feed, ranks, RecordingReporter(), store, leaving=leaving)
    store.close()


def train_stretch_as_rank(
    rank: int, world_size: int, meet: Path, experiment: Experiment, folder: Path, leave_after: int
) -> None:
    """The same as one of some ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world_size)
    train_stretch(experiment, folder, Ranks(rank, world_size), leave_after)
    dist.destroy_process_group()


def begin_as_rank(rank: int, world_size: int, meet: Path, place: Path, out: Any) -> None:
    """Begin attempt 1 as one of some ranks; puts its rank and the step, or what went wrong, and the tensors."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world_size)
    state, _ = small_state()
    try:
        step = CheckpointStore(place, attempt=1).begin(state, Ranks(rank, world_size)).step
        out.put((rank, step, {name: tensor.tolist() for name, tensor in tensors_of(state).items()}))
    except VitrayError as error:
        out.put((rank, str(error), None))
    dist.barrier()
    dist.destroy_process_group()
