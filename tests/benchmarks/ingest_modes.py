"""What else the ingest benchmark measures of ours: several ranks on a node, memory, and how fast data are prepared.

``python ingest_modes.py MODE WORK NUMBER`` makes one measurement in a process of its own and prints a JSON line.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import psutil
from harness import Row
from ingest_measure import answer, fresh, touch, tree, tree_cpu_seconds
from ingest_work import Work
from photos import photos_of, repeat_photos

_TIMES = (1, 4, 16)
_SAMPLE_S = 0.25


def compare_ranks(work: Work, worlds: Sequence[int], rounds: int) -> list[Row]:
    """Images/s of all ranks of a node together, for each number of ranks, against one."""
    worlds = sorted({1, *worlds})
    got: dict[int, list[dict[str, Any]]] = {world: [] for world in worlds}
    for number in range(rounds):
        for world in worlds:
            result = fresh(Path(__file__), "ranks", work.to_json(), str(world))
            got[world].append(result)
            each = " ".join(f"{rate:.0f}" for rate in result["ranks"])
            harness.say(f"round {number}, {world} ranks: {result['rate']:.0f} images/s (each {each})")
    rows = []
    for world in worlds[1:]:
        ours, one = ([result["rate"] for result in got[w]] for w in (world, 1))
        rows.append(harness.more_is_better(f"images/s, {world} ranks on a node", "", ours, one, "vitray, 1 rank"))
        ours, one = ([result["cpu"] for result in got[w]] for w in (world, 1))
        rows.append(harness.less_is_better(f"CPU-s per 1,000 images, {world} ranks", "s", ours, one, "vitray, 1 rank"))
    return rows


def compare_memory(work: Work) -> list[Row]:
    """Peak memory of the whole pipeline as the data grow (the run's length the same) and as the run grows."""
    peaks: dict[tuple[int, int], float] = {}
    for data, length in [(times, 1) for times in _TIMES] + [(1, times) for times in _TIMES[1:]]:
        larger = replace(work, folder=f"{work.folder}/times{data}", images=work.images * data)
        _repeat(work, larger, data)
        passes = _TIMES[-1] * length // data
        peaks[data, length] = fresh(Path(__file__), "memory", larger.to_json(), str(passes))["peak"] / 2**20
        harness.say(
            f"{larger.images} images, {larger.images * passes} of them streamed: {peaks[data, length]:.0f} MiB at most"
        )
    rows = []
    for times in _TIMES[1:]:
        base = [peaks[1, 1]]
        rows.append(
            harness.less_is_better(f"peak memory, data {times}x", "MiB", [peaks[times, 1]], base, "data 1x", 0.9)
        )
        rows.append(
            harness.less_is_better(f"peak memory, run {times}x as long", "MiB", [peaks[1, times]], base, "run 1x", 0.9)
        )
    return rows


def compare_prepare(work: Work, rounds: int) -> list[Row]:
    """How fast ``prepare`` is, in threads and as a Ray Data job, against reading, hashing and decoding alone."""
    arms = ("local", "ray", "bare")
    got: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in arms:
            result = fresh(Path(__file__), "prepare", work.to_json(), arm)
            got[arm].append(result)
            harness.say(
                f"round {number}, prepare {arm}: {result['rate']:.0f} images/s, {result['cpu']:.2f} CPU-s per 1,000"
            )
    rows = []
    bare = "reading, hashing and decoding alone"
    for arm, name in (("local", "threads"), ("ray", "a Ray Data job")):
        rates = [[result["rate"] for result in got[a]] for a in (arm, "bare")]
        spent = [[result["cpu"] for result in got[a]] for a in (arm, "bare")]
        rows.append(harness.more_is_better(f"prepare in {name}, images/s", "", rates[0], rates[1], bare))
        rows.append(harness.less_is_better(f"prepare in {name}, CPU-s per 1,000", "s", spent[0], spent[1], bare))
    return rows


def ranks(work: Work, world: int) -> dict[str, Any]:
    """Ranks as actors that take no CPU, each with its own stream, counted over the same seconds."""
    import ray

    from vitray.cluster.local import connect

    @ray.remote(num_cpus=0, max_concurrency=2)
    class Rank:
        seen = 0

        def consume(self, rank: int) -> None:
            from ingest_arms import our_batches

            for batch in our_batches(work, None, rank=rank, world_size=world):
                self.seen += touch(batch)

        def count(self) -> int:
            return self.seen

    with connect():
        actors = [Rank.remote() for _ in range(world)]
        running = [actor.consume.remote(rank) for rank, actor in enumerate(actors)]
        while min(ray.get([actor.count.remote() for actor in actors])) < work.images / world:
            for ended in ray.wait(running, timeout=0.2)[0]:
                ray.get(ended)  # raises what it failed of
        time.sleep(2)
        before, start, cpu = ray.get([a.count.remote() for a in actors]), time.perf_counter(), tree_cpu_seconds()
        time.sleep(work.seconds)
        after, seconds = ray.get([a.count.remote() for a in actors]), time.perf_counter() - start
        spent = tree_cpu_seconds() - cpu
    each = [(b - a) / seconds for a, b in zip(before, after, strict=True)]
    return {"rate": sum(each), "ranks": each, "cpu": spent / (sum(each) * seconds) * 1000}


def memory(work: Work, passes: int) -> dict[str, Any]:
    """The most that the process, its cluster and everything below it take together: proportional set size, bytes."""
    from ingest_arms import vitray

    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(_SAMPLE_S):
            total = 0
            for process in tree():
                with contextlib.suppress(psutil.Error, OSError):
                    total += process.memory_full_info().pss
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with vitray(work) as stream:
        for batch in stream(passes):
            touch(batch)
    ended.set()
    watcher.join()
    return {"peak": peak}


def prepared(work: Work, executor: str) -> dict[str, Any]:
    """Images/s and CPU-s per 1,000 of preparing the photos once; the cluster of a Ray Data job is up before."""
    from vitray.cluster.local import connect
    from vitray.data.prepare import prepare

    with tempfile.TemporaryDirectory(dir=work.folder) as folder, contextlib.ExitStack() as stack:
        if executor == "ray":
            stack.enter_context(connect())
        start, cpu = time.perf_counter(), tree_cpu_seconds()
        if executor == "bare":
            files = [str(file) for file in photos_of(work.photos)]
            with ProcessPoolExecutor(work.cores) as pool:
                assert sum(pool.map(_read_hash_decode, files, chunksize=32)) == len(files)
        else:
            prepare(str(work.photos), f"{folder}/data", fractions=(1, 0, 0), executor=executor)  # type: ignore[arg-type]
        seconds, spent = time.perf_counter() - start, tree_cpu_seconds() - cpu
    return {"rate": work.images / seconds, "cpu": spent / work.images * 1000}


def _read_hash_decode(file: str) -> bool:
    import hashlib

    import cv2
    import numpy as np

    cv2.setNumThreads(0)
    data = Path(file).read_bytes()
    return (
        bool(hashlib.sha256(data).digest())
        and cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    )


def _repeat(work: Work, larger: Work, times: int) -> None:
    from vitray.data.prepare import prepare

    if not Path(larger.shards).exists():
        repeat_photos(work.photos, larger.photos, times)
        prepare(str(larger.photos), larger.shards, fractions=(1, 0, 0))


def main() -> None:
    mode, work, argument = sys.argv[1], Work.from_json(sys.argv[2]), sys.argv[3]
    with contextlib.redirect_stdout(sys.stderr):
        if mode == "ranks":
            result = ranks(work, int(argument))
        elif mode == "memory":
            result = memory(work, int(argument))
        else:
            result = prepared(work, argument)
    answer(result)


if __name__ == "__main__":
    main()
