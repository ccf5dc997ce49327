"""Trials that compile, one after another in one process, as a rank of a worker group runs them."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from small_runs import small_experiment
from torch._dynamo import config as dynamo_config
from torch._dynamo.utils import counters

from vitray.data.stream import StreamOptions
from vitray.train.messages import Job
from vitray.train.ranks import Ranks
from vitray.train.report import RecordingReporter
from vitray.train.serve import run_job

SHAPES: list[dict[str, Any]] = [
    {"model__patch_size": patch, "model__embed_dim": width, "model__pos_encoding": kind}
    for patch, width in ((4, 16), (4, 32), (2, 16), (2, 32))
    for kind in ("learned", "sinusoidal_2d", "relative", "rope_2d", "none")
]  # 20 architectures


@dataclass(frozen=True)
class Trial:
    """What one trial left: its loss, graphs that were compiled, reasons for eager code, bytes held on the GPU."""

    loss: float
    graphs: int
    eager: Counter[str]
    allocated: int = 0
    reserved: int = 0


def run_trial(number: int, data: Path, folder: Path, device: torch.device, **values: Any) -> Trial:
    """One epoch, compiled, then all that a rank does between jobs.

    Raises:
        FailOnRecompileLimitHit: torch.compile gave up; unasked it would go on in eager mode, and say so in a log.
    """
    counters.clear()
    experiment = small_experiment(data, train__compile=True, train__epochs=1, model__dropout=0.0, **values)
    reporter = RecordingReporter()
    with dynamo_config.patch(fail_on_recompile_limit_hit=True):
        job = Job(number, experiment, str(folder / f"trial-{number}"))
        run_job(job, Ranks(device=device), reporter, StreamOptions(executor="local"))
    eager = counters["graph_break"] + counters["unimplemented"]
    loss, graphs = reporter.reports[-1].metrics["train/loss"], counters["stats"]["unique_graphs"]
    del reporter, experiment, job
    gc.collect()
    if device.type != "cuda":
        return Trial(loss, graphs, eager)
    torch.cuda.empty_cache()
    return Trial(loss, graphs, eager, torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device))
