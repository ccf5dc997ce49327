"""How a stream fetches its bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Executor = Literal["local", "ray"]


@dataclass(frozen=True)
class StreamOptions:
    """How the bytes are fetched; never what is seen.

    Args:
        executor: "local" works in threads of this process, "ray" in Ray Data tasks.
        cache: "decoded" keeps the split's decoded pixels, "none" never, "auto" when they fit ``cache_bytes``.
        workers: tasks (or threads) at once.
        prefetch: units that wait beside those under way, at most.
        task_cpus: CPUs that a data task reserves.
        near: data tasks stay on this node, so that pixels need not travel, even if they have to wait for a CPU there.
        ranks_here: ranks that share this node's object store.
        tell: says a sentence to people.
        max_bad_fraction: above this share of damaged rows the stream stops.
    """

    executor: Executor = "local"
    cache: Literal["auto", "none", "decoded"] = "auto"
    cache_bytes: int = 2**30
    workers: int = 2
    prefetch: int = 2
    task_cpus: float = 1.0
    near: bool = False
    ranks_here: int = 1
    max_bad_fraction: float = 0.001
    tell: Callable[[str], None] = logging.getLogger("vitray").warning

    @property
    def threads(self) -> int:
        """Threads that work on cached images: as many as the tasks would have had CPUs."""
        return self.workers if self.executor == "local" else max(1, round(self.workers * self.task_cpus))
