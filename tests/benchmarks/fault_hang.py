"""A rank that hangs in mid-training: how long until the ranks train again, ours and a plain Ray Train loop's.

    python tests/benchmarks/fault_hang.py [--quick] [--output json]

Two ranks; the last one gets into an endless loop in Python, once, at a step. The peer is ``TorchTrainer`` with a DDP
loop as Ray's documentation has it, ``FailureConfig(max_failures=3)`` and checkpoints. Its rank still answers Ray's
health check, and what ends the wait is gloo's timeout of 30 minutes (NCCL's: 10; a rank that does not answer: 10). It
is watched for three minutes, then given up: its figure is a lower bound.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "faults"), str(TESTS / "train")]

from harness import arguments, less_is_better, publish, say, versions  # noqa: E402

_AT_STEP, _WATCHED_S, _QUICK_S = 100, 180.0, 30.0


def ours(folder: Path) -> float:
    """Seconds from the hang to the next step."""
    import hanging_ranks
    from disturbed import disturbed_experiment, ranks_that_do, train
    from hanging_ranks import PYTHON, hanging
    from ledger import serving

    from vitray.cluster.local import connect
    from vitray.data.prepare import prepare

    prepare("builtin:digits", folder / "digits")
    run, mark = disturbed_experiment(folder / "digits", 3), folder / "ours-hung"
    with connect() as cluster, ranks_that_do(serving(folder / "ours" / "ledger"), hanging_ranks):
        serve = hanging(serving(folder / "ours" / "ledger"), PYTHON, _AT_STEP, mark)
        trained = train(cluster, run, folder / "ours", 2, serve=serve)
    for note in trained.notes:
        say(f"ours: {note}")
    return trained.ledger.next_step_after(float(mark.read_text())) or float("inf")


def stock(folder: Path, watched_s: float) -> float:
    """The same of the plain loop; ``watched_s`` if it still hangs by then."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address="local", log_to_driver=False, include_dashboard=False)
    try:
        trainer = TorchTrainer(
            _stock_loop,
            train_loop_config={"folder": str(folder), "at_step": _AT_STEP},
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
            run_config=RunConfig(
                name="stock", storage_path=str(folder / "stock"), failure_config=FailureConfig(max_failures=3)
            ),
        )
        threading.Thread(target=trainer.fit, daemon=True).start()
        mark, again = folder / "stock-hung", folder / "stock-again"
        while not mark.exists():
            time.sleep(0.1)
        say("stock: hangs")
        hung = float(mark.read_text())
        while time.time() < hung + watched_s and not again.exists():
            time.sleep(0.1)
        return (float(again.read_text()) if again.exists() else time.time()) - hung
    finally:
        ray.shutdown()


def _stock_loop(config: dict[str, Any]) -> None:
    import time
    from pathlib import Path

    import ray.train
    import torch
    from ray.train.torch import prepare_model

    folder, rank = Path(config["folder"]), ray.train.get_context().get_world_rank()
    mark, again = folder / "stock-hung", folder / "stock-again"
    resumed = mark.exists()
    model = prepare_model(torch.nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(1, 10_000):
        if step == config["at_step"] and rank == 1 and not mark.exists():
            mark.write_text(str(time.time()))
            while True:
                time.sleep(0.01)
        model(torch.randn(16, 64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if resumed and not again.exists():
            again.write_text(str(time.time()))


def main() -> None:
    args = arguments(str(__doc__)).parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours_s = ours(folder)
        say(f"ours: training again after {ours_s:.0f} s")
        watched_s = _QUICK_S if args.quick else _WATCHED_S
        stock_s = stock(folder, watched_s)
        say(f"stock: {'still hanging' if stock_s >= watched_s else 'training again'} after {stock_s:.0f} s")
    row = less_is_better("hang to next step (the peer's: at least)", "s", [ours_s], [stock_s], "plain Ray Train loop")
    publish("fault_hang", [row], args.output, versions("ray", "torch"))


if __name__ == "__main__":
    main()
