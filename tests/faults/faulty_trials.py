"""A sweep's trials of which some go wrong, by the weight decay that they are given; and what their processes hold.

Sent by value to the trials' processes, in place of the product's own trial, so that nothing there knows of it.
"""

from __future__ import annotations

from typing import Any

from vitray.tune.trial import WarmTrial

NAN, RAISES, HUNGRY, HANGS = 0.91, 0.92, 0.93, 0.94  # weight decays
FAULTS = {NAN: "nan", RAISES: "code", HUNGRY: "oom", HANGS: "hangs"}
AT_STEP = 12  # in the second epoch
folder = ""  # where ranks write what they hold; set before it is sent


def serve_with_faults(given: dict[str, Any]) -> None:
    """What a rank does all its life, with steps that fail."""
    import gc
    import json
    import time
    from pathlib import Path

    import psutil
    import torch

    import vitray.train.loop as loop
    import vitray.train.serve as serving
    from vitray.models import VisionTransformer

    train_step = loop.train_step

    def faulty_step(model: Any, state: Any, batch: Any, feed: Any) -> Any:
        decay = feed.experiment.optim.weight_decay
        if "was_seen" not in feed.__dict__:  # the first step of an experiment in this process
            feed.__dict__["was_seen"] = True
            models = sum(isinstance(o, VisionTransformer) for o in gc.get_objects())
            rss = psutil.Process().memory_info().rss
            line = {"decay": decay, "pid": psutil.Process().pid, "rss": rss, "models": models, "at": time.time()}
            with (Path(folder) / f"rank-{psutil.Process().pid}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        if batch.step == AT_STEP and decay in FAULTS:
            (Path(folder) / f"hit-{FAULTS[decay]}").touch()
            if decay == RAISES:
                raise ZeroDivisionError(f"on purpose at step {batch.step}")
            if decay == HUNGRY:
                torch.empty(2**52, dtype=torch.uint8)
            if decay == HANGS:
                time.sleep(3600)
            if decay == NAN:
                with torch.no_grad():
                    next(iter(state.model.parameters())).fill_(float("nan"))
        return train_step(model, state, batch, feed)

    loop.train_step = faulty_step
    serving.serve(given)


class FaultyTrial(WarmTrial):
    """The product's trial, whose ranks serve with faults."""

    def _begin(self) -> None:
        import vitray.train.worker_group as worker_group

        worker_group.serve = serve_with_faults
        super()._begin()
