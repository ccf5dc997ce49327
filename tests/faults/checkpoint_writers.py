"""A process that does nothing but go on from a checkpoint and save, for those who kill it."""

from __future__ import annotations

from multiprocessing.connection import Connection

import torch
from small_runs import small_state, tensors_of

from vitray.train.checkpoint import CheckpointStore, Progress, TrainState


def fill(state: TrainState, step: int) -> None:
    """Tensors that tell of which step they are."""
    for tensor in tensors_of(state).values():
        tensor.fill_(step)


def step_of(state: TrainState) -> int:
    """The step that all of its tensors are of; -1 where they are of several."""
    found = {float(value) for tensor in tensors_of(state).values() for value in tensor.unique()}
    return int(found.pop()) if len(found) == 1 else -1


def progress_of(step: int) -> Progress:
    return Progress(step, best=0.5, best_step=step // 5 * 5 or None)


def go_on_and_save(place: str, said: Connection, embed_dim: int = 64) -> None:
    """Begin an attempt, say from which step, and save step after step for ever, saying which are committed."""
    torch.set_num_threads(1)
    state, info = small_state(embed_dim=embed_dim, ema=True)
    store = CheckpointStore(place)
    said.send(("ready", 0))
    step = store.begin(state).step
    said.send(("goes on", step if not step or step_of(state) == step else -1))
    while True:
        step += 1
        fill(state, step)
        store.save(state, progress_of(step), info)
        store.wait()
        said.send(("saved", step))
