"""What saving costs a training: ours, a torch.save in the step, and Ray Train's own checkpoints.

A ViT-S/16 at 96 px with AdamW on CPUs, in one Ray Train run, so that all arms have the same processes: one rank with
one thread, then two ranks with DDP over gloo and a thread each. In each round every arm trains for a while and saves
now and then, and so does one that saves nothing. What a save costs is the time by which the steps from its beginning
until it is on the disk took longer than steps do without: the copy in the step as well as the cores that are taken
meanwhile. It is given in per cent of a training that saves every 30 s. A stall is what the call itself takes.

- ``ours``: :class:`vitray.train.checkpoint.CheckpointStore`; checksums and fsync included.
- ``torch.save``: model and optimizer, in the step, on the first rank. No checksum, no fsync.
- ``Ray Train``: the same into a temporary folder, then ``ray.train.report`` with ``Checkpoint.from_directory``, which
  all ranks wait for; and with ``CheckpointUploadMode.ASYNC``.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

EVERY_S = 30.0  # of which a save's cost is given in per cent
ARMS = ("none", "ours", "torch.save", "Ray Train", "Ray Train, async")


def rank(task: dict[str, Any]) -> None:
    """Ray Train's training function: all arms, round after round. The first rank writes down every save's cost."""
    import torch
    from ray.train import get_context
    from torch.nn.parallel import DistributedDataParallel

    from vitray.experiment import ModelConfig, OptimConfig
    from vitray.models import VisionTransformer
    from vitray.models.package import PackageInfo
    from vitray.train.checkpoint import CheckpointStore
    from vitray.train.checkpoint_state import TrainState
    from vitray.train.optim import make_optimizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    first, world = get_context().get_world_rank() == 0, get_context().get_world_size()
    config = ModelConfig(image_size=96, patch_size=16, in_chans=3, num_classes=10, embed_dim=384, depth=12, num_heads=6)
    model = VisionTransformer(config)
    state = TrainState(model, make_optimizer(model, OptimConfig()))
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    images, labels = torch.randn(task["batch"], 3, 96, 96), torch.randint(10, (task["batch"],))
    names, three = tuple("0123456789"), (0.5, 0.5, 0.5)
    info = PackageInfo(model=config, classes=names, mean=three, std=three, dataset_fingerprint="f")
    scratch = Path(task["scratch"])
    store = CheckpointStore(scratch / f"ours-{world}")
    step = 0

    def train() -> None:
        nonlocal step
        torch.nn.functional.cross_entropy(wrapped(images), labels).backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        step += 1

    for _ in range(3):
        train()
    for number in range(task["rounds"]):
        order = [*ARMS[number % len(ARMS) :], *ARMS[: number % len(ARMS)]]
        usual = [_timed(train) for _ in range(task["steps"])]
        for arm in order:
            if arm == "none":
                usual += [_timed(train) for _ in range(task["steps"])]
                continue
            for _ in range(task["saves"]):
                taken, stall, steps = _save(arm, state, info, store, scratch, train, task["window"], lambda: step)
                if first:
                    line = {"world": world, "arm": arm, "seconds": taken, "stall": stall, "steps": steps}
                    with (scratch / "found.jsonl").open("a") as file:
                        file.write(json.dumps(line) + "\n")
        if first:
            with (scratch / "found.jsonl").open("a") as file:
                file.write(json.dumps({"world": world, "arm": "none", "usual": statistics.median(usual)}) + "\n")
    store.close()


def _timed(what: Any) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _save(
    arm: str, state: Any, info: Any, store: Any, scratch: Path, train: Any, window: int, step: Any
) -> tuple[float, float, int]:
    """Save once and train on for ``window`` steps: (seconds of all, seconds of the call, steps)."""
    began = time.perf_counter()
    _call(arm, state, info, store, scratch, step())
    stall = time.perf_counter() - began
    for _ in range(window):
        train()
    seconds = time.perf_counter() - began
    if arm == "ours":
        store.wait()  # outside of what is counted: the window is long enough for it
    return seconds, stall, window


def _call(arm: str, state: Any, info: Any, store: Any, scratch: Path, step: int) -> None:
    import ray.train
    import torch
    from ray.train import Checkpoint, CheckpointUploadMode, get_context

    from vitray.train.progress import Progress

    first = get_context().get_world_rank() == 0
    if arm == "ours":
        if first:
            store.save(state, Progress(step), info)
        return
    tensors = {"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
    if arm == "torch.save":
        if first:
            torch.save(tensors, scratch / "plain.pt")
        return
    checkpoint = None
    if first:
        folder = tempfile.mkdtemp(dir=scratch)
        torch.save(tensors, Path(folder) / "state.pt")
        checkpoint = Checkpoint.from_directory(folder)
    mode = CheckpointUploadMode.ASYNC if arm.endswith("async") else CheckpointUploadMode.SYNC
    ray.train.report(
        {"step": step},
        checkpoint=checkpoint,
        checkpoint_upload_mode=mode,
        delete_local_checkpoint_after_upload=True,
    )


def measure(world: int, task: dict[str, Any]) -> None:
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        rank,
        train_loop_config=task,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=world, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=f"world-{world}", storage_path=task["scratch"], checkpoint_config=CheckpointConfig(num_to_keep=2)
        ),
    ).fit()


def rows_of(found: list[dict[str, Any]]) -> list[harness.Row]:
    rows = []
    for world in sorted({line["world"] for line in found}):
        here = [line for line in found if line["world"] == world]
        usual = statistics.median(line["usual"] for line in here if line["arm"] == "none")
        cost: dict[str, list[float]] = {}
        stall: dict[str, list[float]] = {}
        for line in here:
            if line["arm"] != "none":
                more = line["seconds"] - line["steps"] * usual
                cost.setdefault(line["arm"], []).append(100 * max(more, line["stall"]) / EVERY_S)
                stall.setdefault(line["arm"], []).append(1000 * line["stall"])
        label = f"{world} rank{'s' if world > 1 else ''} of 1 thread"
        ours = statistics.median(cost["ours"])
        rows.append(harness.less_is_better(f"{label}, of step time", "%", cost["ours"], [1.5], "the goal", 1.0))
        for arm in ARMS[2:]:
            rows.append(harness.less_is_better(f"{label}, of step time", "%", cost["ours"], cost[arm], arm))
            rows.append(harness.less_is_better(f"{label}, stall a save", "ms", stall["ours"], stall[arm], arm))
        harness.say(f"{label}: a step takes {usual * 1000:.0f} ms; ours costs {ours:.2f} %")
    return rows


def main() -> None:
    import ray

    from vitray.cluster.local import connect

    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, help="of all arms (default 3)")
    parser.add_argument("--ranks", type=int, action="append", help="how many (default: 1, then 2)")
    options = parser.parse_args()
    # In /var/tmp, which is a disk where /tmp may not be.
    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-", dir="/var/tmp"))
    task = {
        "scratch": str(scratch),
        "rounds": options.rounds or (1 if options.quick else 3),
        "saves": 1 if options.quick else 3,
        "steps": 2 if options.quick else 12,
        "window": 4 if options.quick else 16,
        "batch": 2 if options.quick else 8,
    }
    try:
        with connect():
            for world in options.ranks or (1, 2):
                measure(world, task)
        found = [json.loads(line) for line in (scratch / "found.jsonl").read_text().splitlines()]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    versions = harness.versions("vitray", "ray", "torch")
    harness.publish("checkpoint_overhead", rows_of(found), options.output, versions)
    assert not ray.is_initialized()


if __name__ == "__main__":
    main()
