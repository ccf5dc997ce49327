"""What a unit costs (a rank, a shard, a trial), from which README's section on scaling computes a cluster's needs.

There is no peer and no hardware to scale on: everything is measured on one machine, with as many simulated ranks,
shards and trials as it takes to see the slope.

- order: time of a step's samples among 10^9 rows; what the order holds in memory.
- manifest: bytes on disk, memory and time to open, by shard.
- mailbox: a real actor with 1,000 simulated ranks that take a job, report and finish; time and CPU by message.
- pipelines: Ray's own processes (GCS, statistics, autoscaling) while pipelines stand ready, by pipeline and second.
- ledger: bytes on disk, memory and time to read, by trial of 20 reports.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import psutil


def order() -> dict[str, float]:
    from vitray.data.order import Order

    made = Order("f" * 64, "train", rows=10**9, rows_per_group=64, global_batch=8192)
    made.rank_samples(0, 0, 1000)
    start, steps = time.perf_counter(), 200
    for step in range(steps):
        made.rank_samples(step, step % 1000, 1000)
    rank_s = (time.perf_counter() - start) / steps
    start = time.perf_counter()
    for step in range(20):
        made.step_samples(step)
    return {
        "a rank's samples of a step, us": rank_s * 1e6,
        "all samples of a step of 8,192, us": (time.perf_counter() - start) / 20 * 1e6,
        "an order, pickled, bytes": len(pickle.dumps(made)),
    }


def manifest(shards: int) -> dict[str, float]:
    from vitray.data.manifest import Manifest, ShardInfo, SplitInfo
    from vitray.data.shards import ShardStore

    rows = 3200  # about 64 MB of images of 20 kB
    empty = SplitInfo(0, 0, (0,) * 1000, ())
    made = Manifest(
        source="s3://bucket/photos",
        seed=0,
        classes=tuple(f"n{number:08d}" for number in range(1000)),
        rows_per_group=64,
        channels=3,
        image_size=None,
        splits={
            "train": SplitInfo(
                rows * shards,
                rows * shards * 150_000,
                (rows * shards // 1000,) * 1000,
                tuple(
                    ShardInfo(
                        f"train/{number:06d}-{number:012x}.parquet", rows, rows // 64, 64_000_000, f"{number:064x}"
                    )
                    for number in range(shards)
                ),
            ),
            "val": empty,
            "test": empty,
        },
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    text = made.to_json()
    tracemalloc.start()
    start = time.perf_counter()
    read = Manifest.from_json(text, where="manifest.json")
    seconds = time.perf_counter() - start
    store = ShardStore("s3://bucket/data", read)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    start = time.perf_counter()
    Manifest.from_json(text, where="manifest.json")
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    packed = pickle.dumps(store)
    pack_s = time.perf_counter() - start
    return {
        "a shard in manifest.json, bytes": len(text) / shards,
        "a shard in memory, bytes": held / shards,
        "a shard in what is sent to data tasks, bytes": len(packed) / shards,
        "reading and checking, us a shard": seconds / shards * 1e6,
        "sending, us a shard": pack_s / shards * 1e6,
    }


def ledger(trials: int, folder: Path) -> dict[str, float]:
    from vitray.tune.ledger import Ledger, read_records

    values = {f"model.key{number}": number for number in range(40)}
    metrics = dict.fromkeys(("train/loss", "val/loss", "val/accuracy", "lr", "images_per_s", "eval_s"), 0.123456789)
    start = time.perf_counter()
    with Ledger(folder) as open_ledger:
        for index in range(trials):
            open_ledger.append("trial", index, name=f"trial-{index:04d}", point={"model.depth": 4}, values=values)
            open_ledger.append("begin", index)
            for epoch in range(1, 21):
                open_ledger.append("report", index, epoch=epoch, step=epoch * 10, metrics=metrics)
            open_ledger.append("end", index, status="done")
    write_s = time.perf_counter() - start
    size = (folder / "ledger.jsonl").stat().st_size
    tracemalloc.start()
    records = read_records(folder)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(records) == trials
    del records
    start = time.perf_counter()
    read_records(folder)
    return {
        "a trial of 20 reports, bytes on disk": size / trials,
        "likewise in the driver's memory, bytes": held / trials,
        "writing, us a trial": write_s / trials * 1e6,
        "reading after a restart, us a trial": (time.perf_counter() - start) / trials * 1e6,
    }


class Crowd:
    """Simulated ranks: they take a job, the first reports ten times, all finish, over and over."""

    async def serve(self, mailbox: Any, ranks: range, world_size: int) -> int:
        from vitray.train.messages import Job, RankEnd
        from vitray.train.report import Report

        async def rank(number: int) -> int:
            job_number, messages = 0, 0
            while True:
                job = await mailbox.take.remote(number, job_number, 30.0)
                messages += 1
                if job is None:
                    return messages
                if not isinstance(job, Job):
                    continue
                job_number = job.number
                if number == 0:
                    for epoch in range(1, 11):
                        await mailbox.report.remote(job.number, Report(epoch, epoch, {"train/loss": 1.0}))
                        messages += 1
                await mailbox.finish.remote(job.number, RankEnd(number, world_size))
                messages += 1

        return sum(await asyncio.gather(*map(rank, ranks)))


def mailbox(ranks: int, jobs: int) -> dict[str, float]:
    """As a worker group has it, with its limit on concurrent calls."""
    import ray

    from vitray.experiment import Experiment
    from vitray.train.mailbox import Mailbox
    from vitray.train.messages import Ended
    from vitray.train.worker_group import MAILBOX_CALLS

    box: Any = ray.remote(num_cpus=0, max_concurrency=MAILBOX_CALLS)(Mailbox).remote(3)
    crowds = 4
    actor: Any = ray.remote(num_cpus=0, max_concurrency=4)(Crowd)
    members = [actor.remote() for _ in range(crowds)]
    share = ranks // crowds
    serving = [
        member.serve.remote(box, range(number * share, (number + 1) * share), ranks)
        for number, member in enumerate(members)
    ]
    experiment = Experiment(data={"path": "builtin:digits"})
    process = psutil.Process(ray.get(box.__ray_call__.remote(lambda self: os.getpid())))
    times, cpu = [], 0.0
    for number in range(jobs + 1):
        if number == 1:
            cpu = _cpu(process)
        start = time.perf_counter()
        ray.get(box.submit.remote(experiment, f"/tmp/run{number}"))
        while not isinstance(said := ray.get(box.next.remote(1.0)), Ended):
            if said is not None:
                ray.get(box.decide.remote(True))
        times.append(time.perf_counter() - start)
    cpu = _cpu(process) - cpu
    rss = process.memory_info().rss
    ray.get(box.close.remote())
    messages = sum(ray.get(serving)) / (jobs + 1)
    for each in (box, *members):
        ray.kill(each)
    return {
        f"a job of {ranks} ranks and ten reports, s": sorted(times[1:])[len(times[1:]) // 2],
        "CPU a message, us": cpu / jobs / messages * 1e6,
        "messages a rank and job": messages / ranks,
        "the mailbox's memory, MiB": rss / 2**20,
    }


def pipelines(count: int, seconds: float, data: str) -> dict[str, float]:
    """Streams whose consumers take a batch every half second, as ranks of large models do."""
    from vitray.data import ShardedImages
    from vitray.data.stream import StreamOptions

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    images = ShardedImages.open(data)
    ended = threading.Event()
    options = StreamOptions(executor="ray", cache="none", task_cpus=0.01, workers=1, prefetch=2)

    def consume(rank: int) -> None:
        batches = images.batches(
            "train", global_batch=8 * count, rank=rank, world_size=count, stop_step=10**6, options=options
        )
        for _ in batches:
            if ended.wait(0.5):
                break
        batches.close()  # type: ignore[attr-defined]

    names = {"gcs_server": "gcs_server", "raylet/raylet": "raylet", "_StatsActor": "statistics"}
    names |= {"_AutoscalingCoordinatorActor": "autoscaling"}
    threads = [threading.Thread(target=consume, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(15)
    before = {label: _cpu(_process(name)) for name, label in names.items()}
    here = time.process_time()
    time.sleep(seconds)
    found = {
        f"{label}, CPU ms a second and pipeline": (_cpu(_process(name)) - before[label]) / seconds / count * 1e3
        for name, label in names.items()
    }
    found["the rank's own process, CPU ms a second and pipeline"] = (time.process_time() - here) / seconds / count * 1e3
    ended.set()
    for thread in threads:
        thread.join()
    return found


def _process(name: str) -> psutil.Process:
    """This machine's process of that name below us."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            try:
                if name in " ".join(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        time.sleep(0.2)
    raise SystemExit(f"there is no process {name!r}")


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    options = harness.arguments(__doc__ or "").parse_args()
    small = options.quick
    from vitray.cluster.local import connect
    from vitray.data.prepare import prepare

    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    found: dict[str, dict[str, float]] = {}

    def run(name: str, measure: Callable[[], dict[str, float]]) -> None:
        found[name] = measure()
        for what, value in found[name].items():
            harness.say(f"{name}: {what}: {value:,.4g}")

    try:
        run("order, 10^9 rows", order)
        run("manifest", lambda: manifest(5_000 if small else 50_000))
        run("ledger", lambda: ledger(200 if small else 2_000, scratch / "sweep"))
        prepare("builtin:digits", scratch / "digits")
        with connect():
            for ranks in (100, 1_000):
                run(f"mailbox, {ranks} ranks", lambda ranks=ranks: mailbox(ranks, 2 if small else 10))
            for count in (2, 8):
                run(f"{count} pipelines", lambda n=count: pipelines(n, 10 if small else 40, str(scratch / "digits")))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    result = {
        "name": "scaling",
        "hardware": harness.hardware(),
        "versions": harness.versions("vitray", "ray"),
        "measured": found,
    }
    if options.output == "json":
        print(json.dumps(result, indent=2))
    else:
        print(f"scaling: {result['hardware']}; {result['versions']}")
        for name, values in found.items():
            print(name)
            for what, value in values.items():
                print(f"  {what}: {value:,.4g}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parent))  # Ray's processes import Crowd from here
    sys.exit(main())
