"""What our Ray Data jobs have in common: order, quiet, blocks as they are, and an error where Ray would wait."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.data import DataContext

from vitray.errors import ResourceError

PATIENCE_S = 60.0  # a cluster may have to start a machine


@contextmanager
def ordered_context(change: Callable[[DataContext], None] = lambda context: None) -> Iterator[None]:
    """Datasets that begin inside the block keep the order of their tasks, whose blocks stay as they are.

    The process's own context comes back. ``change`` may set more.
    """
    before = DataContext.get_current()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying a context reads its deprecated fields
        context = before.copy()
        context.target_max_block_size = None  # else Ray merges small blocks and slices large ones
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        change(context)
    DataContext._set_current(context)
    try:
        yield
    finally:
        DataContext._set_current(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Ray Data reports each of its executions, and its progress bars; here somebody else shows how far it is."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_room(task_cpus: float, *, what: str, where: str, remedy: str, patience: float = PATIENCE_S) -> None:
    """Raise if no task gets a CPU: Ray would wait for one for ever, in silence.

    Raises:
        ResourceError: after ``patience`` seconds; says what the tasks were for.
    """
    probe = ray.remote(num_cpus=task_cpus)(lambda: None).remote()
    if not ray.wait([probe], timeout=patience)[0]:
        ray.cancel(probe, force=True)
        total = ray.cluster_resources().get("CPU", 0.0)
        raise ResourceError(
            f"no CPU is free for {what}: a task takes {task_cpus:g}, and all of the cluster's {total:g} are in use",
            where=where,
            remedy=remedy,
        )
