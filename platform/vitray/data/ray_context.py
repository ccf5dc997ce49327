"""What our Ray Data jobs have in common: order, quiet, blocks as they are, and an error where Ray would wait."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
import ray.data
from ray.data import DataContext
from ray.data.datasource import Datasource

from vitray.errors import ResourceError

PATIENCE_S = 60.0  # a cluster may have to start a machine


_setting = threading.Lock()


def read_in_order(
    datasource: Datasource,
    tasks: int,
    *,
    num_cpus: float,
    label_selector: dict[str, str] | None = None,
    change: Callable[[DataContext], None] = lambda context: None,
) -> ray.data.Dataset:
    """A dataset of ``tasks`` read tasks that keeps their order and leaves their blocks as they are.

    ``change`` may set more of its context. The process's own context comes back: a dataset keeps a copy of the one that
    it was made under, and only one is made at a time, since streams are begun by several threads.
    """
    with _setting, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying a context reads its deprecated fields
        before = DataContext.get_current()
        context = before.copy()
        context.target_max_block_size = None  # else Ray merges small blocks and slices large ones
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        change(context)
        DataContext._set_current(context)
        try:
            return ray.data.read_datasource(
                datasource, override_num_blocks=tasks, num_cpus=num_cpus, label_selector=label_selector
            )
        finally:
            DataContext._set_current(before)


def object_store_bytes(node: str) -> float:
    """The size of a node's object store; 0 for a node that has left."""
    return next(
        (info["Resources"].get("object_store_memory", 0.0) for info in ray.nodes() if info["NodeID"] == node), 0.0
    )


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


def check_room(
    task_cpus: float,
    *,
    what: str,
    where: str,
    remedy: str,
    patience: float = PATIENCE_S,
    label_selector: dict[str, str] | None = None,
) -> None:
    """Raise if no task gets a CPU: Ray would wait for one for ever, in silence.

    Raises:
        ResourceError: after ``patience`` seconds; says what the tasks were for.
    """
    probe = ray.remote(num_cpus=task_cpus, label_selector=label_selector or {})(lambda: None).remote()
    if not ray.wait([probe], timeout=patience)[0]:
        ray.cancel(probe, force=True)
        total = ray.cluster_resources().get("CPU", 0.0)
        raise ResourceError(
            f"no CPU is free for {what}: a task takes {task_cpus:g}, and all of the cluster's {total:g} are in use",
            where=where,
            remedy=remedy,
        )
