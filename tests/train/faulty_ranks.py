"""Ranks whose experiments go wrong as their names say, and that write down what each experiment finds in its process.

Sent to the ranks by value in place of their serving function, so that nothing in the product knows of it.
"""

from __future__ import annotations

from typing import Any

AT_STEP = 12  # in the second epoch
MOST_IMAGES = 32  # at a time, for an experiment that is "hungry"


def serve_with_faults(given: dict[str, Any]) -> None:
    import gc
    import json
    import threading
    from pathlib import Path

    import psutil
    import torch

    import vitray.train.loop as loop
    import vitray.train.serve as serving
    from vitray.models import VisionTransformer
    from vitray.train.clean import Settings

    train_step, run = loop.train_step, serving._run
    fresh: dict[str, str] = {}  # as the first experiment finds them
    own: set[str] = set()

    def faulty_step(model: Any, state: Any, batch: Any, feed: Any) -> Any:
        experiment, rank = feed.experiment, feed.ranks.rank
        fault = (experiment.name or "").split(".")[0] if batch.step == AT_STEP else None
        if fault == "raises" or (fault == "raises-on-1" and rank == 1):
            raise ZeroDivisionError(f"on purpose at step {batch.step}")
        if fault == "hungry" and len(batch.label) > MOST_IMAGES * experiment.train.accumulate:
            torch.empty(2**52, dtype=torch.uint8)
        if fault == "changes":
            change_everything(torch)
        return train_step(model, state, batch, feed)

    def watched_run(job: Any, ranks: Any, *more: Any) -> None:
        held = [o for o in gc.get_objects() if isinstance(o, VisionTransformer | torch.optim.Optimizer)]
        wrapped = [o for o in gc.get_objects() if type(o).__name__ == "DistributedDataParallel"]
        now = {name: str(value) for name, value in Settings().values.items()}
        names = {thread.name for thread in threading.enumerate()}
        if not fresh:
            fresh.update(now)
            own.update(names)
        found = {
            "pid": psutil.Process().pid,
            "rss": psutil.Process().memory_info().rss,
            "held": [type(o).__name__ for o in held + wrapped],
            "threads": sorted(names - own),
            "settings": {name: value for name, value in now.items() if value != fresh[name]},
        }
        folder = Path(job.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"found-{ranks.rank}.json").write_text(json.dumps(found))
        run(job, ranks, *more)

    loop.train_step, serving._run = faulty_step, watched_run
    serving.serve(given)


def change_everything(torch: Any) -> None:
    """What an experiment could do to the next one."""
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    torch.set_flush_denormal(True)
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.float16)
    torch.set_anomaly_enabled(True)
    backends = torch.backends
    backends.mkldnn.enabled = False
    backends.cudnn.benchmark = backends.cudnn.deterministic = True
    backends.cudnn.allow_tf32 = False
    backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    for switch in ("flash", "mem_efficient", "cudnn"):
        getattr(backends.cuda, f"enable_{switch}_sdp")(False)
    torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: output * 1.01)
