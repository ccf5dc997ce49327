"""What our platform costs a training, against the least that one could write: a torchrun script with DDP over gloo.

Two ranks a thread each, the same model code, batch, optimizer and images. Images a second of whole epochs, from the end
of the first epoch on, with everything that goes on between them: ours reports and writes a checkpoint after each, the
script does neither.

- ``memory``: the script holds all images as tensors; ours takes them from the decoded cache, through Ray. The model is
  ViT-Ti/16 at 96 pixels; and, to see what a step costs besides arithmetic, a nano model on 8-pixel digits.
- ``stream``: ours decodes and crops JPEGs from shards, the script uses ImageFolder and a DataLoader with as many
  workers as there are cores. The model is light (two blocks at 224 pixels, patches of 32): a step takes about as
  long as its data, as a heavy one would on a GPU.

CPU-seconds are those of all processes of an arm in that time, per 1,000 images.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import harness
import psutil

PEER = Path(__file__).with_name("train_overhead_ddp.py")
TINY = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
LIGHT = {"patch_size": 32, "embed_dim": 192, "depth": 2, "num_heads": 3}
NANO = {"patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4}


def work(kind: str, scratch: Path, seconds: float) -> dict[str, Any]:
    """One task, for all its arms."""
    model, size, batch, folder = {
        "memory": (TINY, 96, 64, "small"),
        "digits": (NANO, 8, 128, "digits"),
        "stream": (LIGHT, 224, 64, "large"),
    }[kind]
    return {
        "kind": kind,
        "folder": str(scratch / folder),
        "size": size,
        "batch": batch,
        "seconds": seconds,
        "decoder": None,
        "model": {**model, "image_size": size, "in_chans": 1 if kind == "digits" else 3, "num_classes": 10},
    }


def make(scratch: Path, images: int) -> None:
    """The same images for every arm: shards, photos in a class folder, and tensors."""
    import torch
    from photos import write_photos

    from vitray.data import ShardedImages
    from vitray.data.prepare import prepare

    photos = write_photos(scratch / "large" / "photos", images)
    prepare(str(photos), scratch / "large" / "shards", fractions=(1, 0, 0))
    prepare(str(photos), scratch / "small" / "shards", size=96, fractions=(1, 0, 0))
    prepare("builtin:digits", scratch / "digits" / "shards", fractions=(1, 0, 0))
    for name, batch in (("small", 64), ("digits", 128)):
        data = ShardedImages.open(str(scratch / name / "shards"))
        steps = data.num_samples("train") // batch
        parts = list(
            data.batches(
                "train", global_batch=batch, seed=0, rank=0, world_size=1, start_step=0, stop_step=steps, shuffle=False
            )
        )
        held = {
            "images": torch.cat([torch.from_numpy(part.image.copy()) for part in parts]),
            "labels": torch.cat([torch.from_numpy(part.label.copy()).long() for part in parts]),
        }
        torch.save(held, scratch / name / "memory.pt")


def ours(task: dict[str, Any]) -> None:
    """In a process of its own: prints a line an epoch, as the peer does."""
    from vitray.cluster.local import connect
    from vitray.data import ShardedImages
    from vitray.experiment import Experiment
    from vitray.train.memory import plan_training
    from vitray.train.report import Report
    from vitray.train.worker_group import WorkerGroup

    shards = str(Path(task["folder"]) / "shards")
    streams = task["kind"] == "stream"
    data: dict[str, Any] = {"path": shards, "cache": "none" if streams else "decoded"}
    if streams:
        data |= {"image_size": task["size"], "augment": {"crop": True, "flip": True}}
    experiment = Experiment(
        data=data,
        model={key: task["model"][key] for key in ("patch_size", "embed_dim", "depth", "num_heads")},
        train={"epochs": 10_000, "global_batch": task["batch"], "precision": "float32"},
        cluster={"workers": 2, "use_gpu": False, "threads": max(1, (os.cpu_count() or 1) // 2)},
    )
    images = ShardedImages.open(shards)
    experiment = images.resolve(experiment)
    start: list[float] = []

    def take(report: Report) -> bool:
        now = time.perf_counter()
        start.append(start[0] if start else now)
        rows = (report.epoch - 1) * images.num_samples("train")
        print(json.dumps({"epoch": report.epoch - 1, "rows": rows, "seconds": now - start[0]}), flush=True)
        return now - start[0] <= task["seconds"]

    with connect() as cluster:
        group = WorkerGroup(plan_training(experiment, **cluster.room))
        try:
            group.run(experiment, Path(task["run"]), take)
        finally:
            group.close()


def measure(name: str, task: dict[str, Any], scratch: Path) -> tuple[float, float]:
    """Runs an arm; (images a second, CPU-seconds per 1,000 images) from its first epoch's end to its last's."""
    environment = {**os.environ, "WORK": json.dumps(task), "PYTHONPATH": str(PEER.parent)}
    for variable in ("RAY_ADDRESS", "OMP_NUM_THREADS"):
        environment.pop(variable, None)
    if name == "ours":
        task = {**task, "run": tempfile.mkdtemp(dir=scratch)}
        environment |= {"WORK": json.dumps(task), "VITRAY_HOME": str(scratch / "home")}
        command = [sys.executable, __file__, "--ours"]
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PEER)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    errors: list[str] = []
    drain = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
    drain.start()
    said: list[dict[str, float]] = []
    cpu: list[float] = []
    for line in process.stdout or ():
        if line.startswith("{"):
            said.append(json.loads(line))
            cpu.append(_cpu_of(process.pid))
    process.wait()
    drain.join()
    if process.returncode or len(said) < 2:
        raise SystemExit(f"{name} failed on {task['kind']}:\n{''.join(errors)[-3000:]}")
    rows, seconds = said[-1]["rows"], said[-1]["seconds"]
    return rows / seconds, (cpu[-1] - cpu[0]) / rows * 1000


def _cpu_of(pid: int) -> float:
    """Of a process and all below it, with those that have ended and were waited for."""
    parent = psutil.Process(pid)
    total = 0.0
    for process in [parent, *parent.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def main() -> None:
    if sys.argv[1:] == ["--ours"]:
        ours(json.loads(os.environ["WORK"]))
        return
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, help="of all arms (default 3)")
    parser.add_argument("--seconds", type=float, default=25.0, help="counted of an arm in a round")
    parser.add_argument("--only", choices=["memory", "digits", "stream"], action="append")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = min(options.seconds, 8.0) if options.quick else options.seconds
    kinds = options.only or ["memory", "digits", "stream"]
    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        make(scratch, 512 if options.quick else 1024)
        for number in range(rounds):
            for kind in kinds:
                task = work(kind, scratch, seconds)
                peers = ["PIL", "torchvision"] if kind == "stream" else ["tensors"]
                arms = ["ours", *peers]
                for name in arms[number % len(arms) :] + arms[: number % len(arms)]:
                    decoder = name if kind == "stream" else None
                    rate, cpu = measure(name, {**task, "decoder": decoder}, scratch)
                    found.setdefault((kind, name), []).append((rate, cpu))
                    harness.say(f"{kind}, round {number}, {name}: {rate:.1f} images/s, {cpu:.1f} CPU-s per 1,000")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rows = []
    labels = {
        ("memory", "tensors"): ("in memory, ViT-Ti/16 at 96 px", "torchrun, tensors in memory", 0.98),
        ("digits", "tensors"): ("in memory, nano model on digits", "torchrun, tensors in memory", None),
        ("stream", "PIL"): ("JPEGs to 224 px, light model", "torchrun, DataLoader, PIL", 1.1),
        ("stream", "torchvision"): ("JPEGs to 224 px, light model", "torchrun, DataLoader, decode_image", 1.1),
    }
    for (kind, name), (label, peer, goal) in labels.items():
        if kind in kinds:
            mine, theirs = found[kind, "ours"], found[kind, name]
            rates = [one[0] for one in mine], [one[0] for one in theirs]
            costs = [one[1] for one in mine], [one[1] for one in theirs]
            rows.append(harness.more_is_better(label, "images/s", *rates, peer, goal))
            rows.append(harness.less_is_better(f"{label}, CPU per 1,000 images", "s", *costs, peer))
    harness.publish("train_overhead", rows, options.output, harness.versions("vitray", "ray", "torch"))


if __name__ == "__main__":
    main()
