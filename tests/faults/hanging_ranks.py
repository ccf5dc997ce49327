"""Ranks of which one hangs once, sent to them by value in place of their serving function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

PYTHON, INTERPRETER = "an endless loop in Python", "C code that keeps the interpreter"
MESSAGE = "a message that never comes"


def serve_and_hang(
    serve: Callable[[dict[str, Any]], None], how: str, at_step: int, mark: str, given: dict[str, Any]
) -> None:
    """The last rank hangs before it trains that step; ``mark`` is written when it does, and once only."""
    import ctypes
    import time
    from pathlib import Path

    import torch

    import vitray.train.loop as loop

    train_step = loop.train_step

    def hanging_step(model: Any, state: Any, batch: Any, feed: Any) -> Any:
        ranks = feed.ranks
        if batch.step + 1 == at_step and ranks.rank == ranks.world_size - 1 and not Path(mark).exists():
            Path(mark).write_text(str(time.time()))
            if how == "C code that keeps the interpreter":
                ctypes.PyDLL(None).sleep(10**6)
            elif how == "a message that never comes":
                torch.distributed.recv(torch.zeros(1), src=0)  # which nobody sends
            while True:
                time.sleep(0.01)
        return train_step(model, state, batch, feed)

    loop.train_step = hanging_step
    serve(given)


def hanging(
    serve: Callable[[dict[str, Any]], None], how: str, at_step: int, mark: Path
) -> Callable[[dict[str, Any]], None]:
    """A serving function for ranks of which one hangs."""
    return partial(serve_and_hang, serve, how, at_step, str(mark))
