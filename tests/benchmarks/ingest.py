"""How fast images reach a consumer: our stream beside torch's DataLoader, plain Ray Data and the bare decode loop.

Everybody makes 224-px random-resized crops, flipped half the time, as uint8 batches of 256 from the same 256-px JPEGs
(``--small``: 32-px flips and shifts of 32-px PNGs) for one consumer that reads a byte of every row, with all cores to
load. Each arm runs in a process of its own, the arms taking turns; rates are taken over whole epochs after a warm-up.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
from ingest_measure import Measured, run
from ingest_work import Work
from photos import write_parquet, write_photos

PEERS = {
    "pil": "DataLoader, ImageFolder, PIL",
    "decode_image": "DataLoader, torchvision decode_image, v2",
    "opencv": "DataLoader, our OpenCV decode and crop",
    "ray_parquet": "Ray Data, read_parquet + map_batches",
    "ray_images": "Ray Data, read_images + map_batches",
    "bare": "bare decode-and-crop loop",
}
NAIVE = ("ray_parquet", "ray_images")
GOALS = {"pil": 2.3, "decode_image": 1.5, "opencv": 1.0, "ray_parquet": 3.0, "ray_images": 3.0, "bare": 0.8}
LOADERS = ("pil", "decode_image", "opencv")
ARMS = ("vitray", "vitray_cached", *LOADERS, *NAIVE, "bare")


def main() -> None:
    options = _options()
    kept = options.folder is not None
    folder = Path(options.folder or tempfile.mkdtemp(prefix="vitray-bench-")).resolve()
    try:
        work = _work(options, folder)
        _prepare(work)
        rows = _compare(work, options.arms, 1 if options.quick else options.rounds, quick=options.quick)
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    name = "ingest, small images" if work.small else "ingest"
    harness.publish(
        name, rows, options.output, harness.versions("vitray", "ray", "torch", "torchvision", "opencv-python-headless")
    )


def _options() -> Any:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--images", type=int, help="photos in the set (4,000; 20,000 small ones)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--small", action="store_true", help="32-px images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="epochs that count (twice the cores, at least 4)")
    parser.add_argument(
        "--arms", type=lambda text: text.split(","), default=list(ARMS), help="some of " + ",".join(ARMS)
    )
    parser.add_argument("--folder", help="keep the photos here, and use those that a run before left here")
    parser.add_argument(
        "--stream", type=json.loads, help='StreamOptions of our arms, as JSON: {"task_cpus": 0.5}', metavar="JSON"
    )
    options = parser.parse_args()
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"no such arm: {', '.join(sorted(unknown))}; there are {', '.join(ARMS)}")
    return options


def _work(options: Any, folder: Path) -> Work:
    cores = len(os.sched_getaffinity(0))
    images = options.images or (1000 if options.quick else 20_000 if options.small else 4000)
    return Work(
        folder=str(folder),
        images=images,
        cores=cores,
        workers=cores,
        batch=options.batch,
        small=options.small,
        warmup=1 if options.quick else -(-cores // 4),
        epochs=options.epochs or (1 if options.quick else max(4, 2 * cores)),
        options=options.stream,
    )


def _prepare(work: Work) -> None:
    from vitray.data.prepare import prepare

    if not work.photos.exists():
        harness.say(f"{work.images} photos in {work.folder}")
        write_photos(work.photos, work.images, small=work.small)
    if not work.parquet.exists():
        write_parquet(work.photos, work.parquet)
    if not Path(work.shards).exists():
        prepare(str(work.photos), work.shards, fractions=(1, 0, 0))


def _compare(work: Work, arms: list[str], rounds: int, *, quick: bool) -> list[harness.Row]:
    works = dict.fromkeys(arms, work)
    if not quick:
        for arm in set(arms) & set(LOADERS):
            works[arm] = _better_workers(arm, work)
    got: dict[str, list[Measured]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in arms:
            result = run(arm, works[arm])
            got[arm].append(result)
            harness.say(f"round {number}, {arm}: {_told(result)}")
    return _rows(got)


def _better_workers(arm: str, work: Work) -> Work:
    """A DataLoader with a worker a core, or one more: whichever is faster in a short run of each."""
    short = replace(work, epochs=max(2, work.epochs // 4))
    tried = [replace(short, workers=work.cores + more) for more in (0, 1)]
    rates = [run(arm, choice).rate for choice in tried]
    best = tried[rates.index(max(rates))].workers
    harness.say(f"{arm}: {rates[0]:.0f} images/s with {work.cores} workers, {rates[1]:.0f} with {work.cores + 1}")
    return replace(work, workers=best)


def _told(result: Measured) -> str:
    epochs = " ".join(f"{rate:.0f}" for rate in result.epochs)
    return (
        f"{result.rate:.0f} images/s ({epochs}), {result.cpu:.2f} CPU-s per 1,000, "
        f"first batch {result.cold:.2f} s cold, {result.warm:.2f} s warm, others {result.others:.0%}"
    )


def _rows(got: dict[str, list[Measured]]) -> list[harness.Row]:
    """Ours against each peer; of the two plain Ray Data pipelines only the faster one counts."""

    def of(arm: str, what: str) -> list[float]:
        return [getattr(result, what) for result in got[arm]]

    naive = [arm for arm in NAIVE if arm in got]
    slower = set(naive) - {max(naive, key=lambda arm: statistics.median(of(arm, "rate")))} if naive else set()
    peers = [arm for arm in PEERS if arm in got and arm not in slower]
    rows = []
    if "vitray" in got:
        for arm in peers:
            rows.append(
                harness.more_is_better(
                    "images/s", "images/s", of("vitray", "rate"), of(arm, "rate"), PEERS[arm], GOALS[arm]
                )
            )
        if "vitray_cached" in got:
            rows.append(
                harness.more_is_better(
                    "images/s, decoded cache",
                    "images/s",
                    of("vitray_cached", "rate"),
                    of("vitray", "rate"),
                    "uncached",
                    2,
                )
            )
        for arm in peers:
            rows.append(harness.less_is_better("CPU-s per 1,000", "s", of("vitray", "cpu"), of(arm, "cpu"), PEERS[arm]))
        for what in ("cold", "warm"):
            for arm in peers:
                if arm != "bare":
                    goal = 3 if arm in NAIVE and what == "cold" else None
                    ours = of("vitray", what)
                    rows.append(
                        harness.less_is_better(f"first batch, {what}", "s", ours, of(arm, what), PEERS[arm], goal)
                    )
    return rows


if __name__ == "__main__":
    main()
