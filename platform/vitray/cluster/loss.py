"""A cluster that is lost: Ray ends this process a minute later, without a word from us, so we say it before."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vitray.cluster.address import unreachable
from vitray.cluster.local import Cluster

_LOOK_EVERY_S = 5.0
_TIMES = 2  # in a row that it did not answer
log = logging.getLogger("vitray")


@contextmanager
def told_of_loss(cluster: Cluster, goes_on_with: str) -> Iterator[None]:
    """While the block runs, a joined cluster whose head no longer answers is reported once, with what to do then."""
    if cluster.local or cluster.address == "auto":
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        silent = 0
        while not ended.wait(_LOOK_EVERY_S):
            silent = 0 if unreachable(cluster.address) is None else silent + 1
            if silent == _TIMES:
                log.warning(
                    "the cluster at %s does not answer; if it stays away, Ray ends this process within a minute, and "
                    "nothing is lost: go on with: %s",
                    cluster.address,
                    goes_on_with,
                )

    thread = threading.Thread(target=watch, daemon=True, name="vitray-cluster-watch")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
