"""How fast images reach a consumer: our stream beside torch's DataLoader, plain Ray Data and the bare decode loop.

Everybody makes 224-px random-resized crops, flipped half the time, as uint8 batches of 256 from the same 256-px JPEGs
(``--small``: 32-px flips and shifts of 32-px PNGs) for one consumer that reads a byte of every row, with all cores to
load. Each arm runs in a process of its own, the arms taking turns; rates are taken over whole epochs after the first.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import ingest_modes
from ingest_measure import Measured, run
from ingest_work import Work
from photos import write_parquet, write_photos

PEERS = {
    "pil": ("DataLoader, ImageFolder, PIL", 2.3),
    "decode_image": ("DataLoader, torchvision decode_image and v2", 1.5),
    "opencv": ("DataLoader, our OpenCV decode and crop", 1.0),
    "ray": ("Ray Data as in its guide", 3.0),
    "ray_tuned": ("Ray Data, tuned", None),
    "bare": ("bare decode-and-crop loop", 0.8),
}
"""What our images/s are held against, and how many times theirs they are to be (None: no goal was set)."""
ARMS = ("vitray", "vitray_cached", *PEERS)


def main() -> None:
    options = _options()
    kept = options.folder is not None
    folder = Path(options.folder or tempfile.mkdtemp(prefix="vitray-bench-")).resolve()
    try:
        work = _work(options, folder)
        _prepare(work)
        rounds = 1 if options.quick else options.rounds
        if options.ranks:
            rows = ingest_modes.compare_ranks(work, options.ranks, rounds)
        elif options.memory:
            rows = ingest_modes.compare_memory(work)
        elif options.prepare:
            rows = ingest_modes.compare_prepare(work, rounds)
        else:
            rows = _compare(work, options.arms, rounds, quick=options.quick)
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
    parser.add_argument("--batch", type=int, default=256, help="images in a batch (256)")
    parser.add_argument("--small", action="store_true", help="32-px images")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all arms (3)")
    parser.add_argument("--seconds", type=float, help="counted of each run (8)")
    parser.add_argument(
        "--arms", type=lambda text: text.split(","), default=list(ARMS), help="some of " + ",".join(ARMS)
    )
    parser.add_argument("--folder", help="keep the photos here, and use those that a run before left here")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--ranks",
        type=lambda text: [int(ranks) for ranks in text.split(",")],
        help="instead: so many ranks on this node, against one",
        metavar="1,2,4",
    )
    modes.add_argument("--memory", action="store_true", help="instead: peak memory as the data and the run grow")
    modes.add_argument("--prepare", action="store_true", help="instead: how fast images are prepared")
    parser.add_argument(
        "--stream", type=json.loads, help='StreamOptions of our arms, as JSON: {"task_cpus": 0.5}', metavar="JSON"
    )
    options = parser.parse_args()
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"no such arm: {', '.join(sorted(unknown))}; there are {', '.join(ARMS)}")
    return options


def _work(options: Any, folder: Path) -> Work:
    cores = len(os.sched_getaffinity(0))
    usual = 20_000 if options.small else 4000
    if options.prepare:
        usual *= 4  # a job takes seconds to start
    # Memory is watched while the set grows to 16 times its size, and the run to 16 times its length.
    images = options.images or (usual // 4 if options.quick or options.memory else usual)
    return Work(
        folder=str(folder),
        images=images,
        cores=cores,
        workers=cores,
        batch=options.batch,
        small=options.small,
        seconds=options.seconds or (2.0 if options.quick else 8.0),
        options=options.stream,
    )


def _prepare(work: Work) -> None:
    from vitray.data.prepare import prepare

    if not work.photos.exists():
        harness.say(f"{work.images} photos in {work.folder}")
        write_photos(work.photos, work.images, small=work.small)
    if not work.parquet.exists():
        write_parquet(work.photos, work.parquet, rows_per_file=4096 if work.small else 256)
    if not Path(work.shards).exists():
        prepare(str(work.photos), work.shards, fractions=(1, 0, 0))


def _compare(work: Work, arms: list[str], rounds: int, *, quick: bool) -> list[harness.Row]:
    chosen = {arm: _choices(arm, work)[0] if quick else _best(arm, work) for arm in arms}
    got: dict[str, list[Measured]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in arms:
            result = run(*chosen[arm])
            got[arm].append(result)
            harness.say(f"round {number}, {arm}: {_told(result)}")
    return _rows(got)


def _choices(arm: str, work: Work) -> list[tuple[str, Work]]:
    """The forms of a peer, of which only the one that is fastest here is compared with."""
    if arm in ("pil", "decode_image", "opencv", "ray_tuned"):
        return [(arm, replace(work, workers=work.cores + more)) for more in (0, 1)]
    if arm == "ray":
        return [("ray_parquet", work), ("ray_images", work)]
    return [(arm, work)]


def _best(arm: str, work: Work) -> tuple[str, Work]:
    choices = _choices(arm, work)
    if len(choices) == 1:
        return choices[0]
    rates = [run(name, replace(choice, seconds=work.seconds / 2)).rate for name, choice in choices]
    for (name, choice), rate in zip(choices, rates, strict=True):
        harness.say(f"tried {name} with {choice.workers} workers: {rate:.0f} images/s")
    return choices[rates.index(max(rates))]


def _told(result: Measured) -> str:
    return (
        f"{result.rate:.0f} images/s (epochs {min(result.epochs):.0f} to {max(result.epochs):.0f}), "
        f"{result.cpu:.2f} CPU-s per 1,000, first batch {result.cold:.2f} s cold, {result.warm:.2f} s warm, "
        f"others {result.others:.0%}"
    )


def _rows(got: dict[str, list[Measured]]) -> list[harness.Row]:
    def of(arm: str, what: str) -> list[float]:
        # Where other processes took their share, clocks tell little; those runs count only if there are no better.
        clean = [result for result in got[arm] if what == "cpu" or result.others < 0.1]
        return [getattr(result, what) for result in clean or got[arm]]

    rows: list[harness.Row] = []
    if "vitray" not in got:
        return rows
    peers = [(arm, *PEERS[arm]) for arm in PEERS if arm in got]
    for arm, name, goal in peers:
        rows.append(harness.more_is_better("images/s", "", of("vitray", "rate"), of(arm, "rate"), name, goal))
    if "vitray_cached" in got:
        cached, uncached = of("vitray_cached", "rate"), of("vitray", "rate")
        rows.append(harness.more_is_better("images/s, decoded cache", "", cached, uncached, "vitray uncached", 2))
    for arm, name, _ in peers:
        rows.append(harness.less_is_better("CPU-s per 1,000 images", "s", of("vitray", "cpu"), of(arm, "cpu"), name))
    for what in ("cold", "warm"):
        for arm, name, _ in peers:
            if arm != "bare":
                goal = 3 if (arm, what) == ("ray", "cold") else None
                mine, theirs = of("vitray", what), of(arm, what)
                rows.append(harness.less_is_better(f"first batch, {what}", "s", mine, theirs, name, goal))
    return rows


if __name__ == "__main__":
    main()
