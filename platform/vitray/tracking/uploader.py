"""The background half of the MLflow tracker: two threads that sync spools to disk and bring them to the server."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from vitray.errors import TrackingError
from vitray.masking import masked, public
from vitray.tracking.again import LostFamilies, family, send_again
from vitray.tracking.delivery import Delivery, finish, take_over
from vitray.tracking.finished import forget_oldest
from vitray.tracking.mlflow_client import brief
from vitray.tracking.server import Server, UnavailableError
from vitray.tracking.spool import Spool, folder_of, leftovers

SYNC_EVERY_S = 0.2  # what a power cut may cost; a killed process costs nothing
BACKOFF_S = (0.5, 2.0)  # first and longest pause while the server is away: what it costs in draining late
logger = logging.getLogger("vitray.tracking")


class Uploader:
    """Owns the spools of one process. Threads start with the first run and end with ``close``."""

    def __init__(self, server: Server, spool_dir: Path, interval_s: float) -> None:
        self.spool_dir, self._server, self._interval_s = spool_dir, server, interval_s
        self._lock = threading.Lock()
        self._deliveries: dict[str, Delivery] = {}  # in the order of their starts: parents before children
        self._own: set[str] = set()  # runs of this process, as against adopted ones
        self._in_use: dict[str, int] = {}
        self._threads: list[threading.Thread] = []
        self._wake, self._stop = threading.Event(), threading.Event()
        self._passed = threading.Condition()
        self._passes = self._failures = 0
        self._adopted = False
        self._lost = LostFamilies(spool_dir)

    @contextlib.contextmanager
    def using(self, run: str) -> Iterator[Spool]:
        """The run's spool, opened when it is not; it is not taken away while it is in use.

        Raises:
            TrackingError: another living process reports to this run.
            OSError: the spool folder cannot be written.
        """
        with self._lock:
            delivery = self._deliveries.get(run)
            if delivery is None:
                delivery = Delivery(run, Spool(folder_of(self.spool_dir, run)), self._server)
                delivery.on_lost = self._is_lost
                self._deliveries[run] = delivery
            self._own.add(run)
            self._in_use[run] = self._in_use.get(run, 0) + 1
            self._start_threads()
        try:
            yield delivery.spool
        finally:
            with self._lock:
                self._in_use[run] -= 1

    def wake(self) -> None:
        """There is news that should not wait for the next interval."""
        self._wake.set()

    @property
    def away(self) -> bool:
        """True when the server did not take the last try."""
        return self._failures > 0

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything is delivered, at most ``timeout_s`` seconds; True when it is."""
        deadline = time.monotonic() + timeout_s
        self.wake()
        with self._passed:
            while self._lost.names or any(delivery.pending for delivery in self._snapshot()):
                left = deadline - time.monotonic()
                if self._stop.is_set() or left <= 0:
                    return False
                if not self._failures:
                    self.wake()
                self._passed.wait(min(0.1, left))
        return True

    def close(self, wait_s: float) -> int:
        """Deliver within ``wait_s`` seconds, but ask a server that is away only once more. How many runs are left."""
        deadline, asked = time.monotonic() + wait_s, self._passes
        while self._threads and not self.drain(0.2) and time.monotonic() < deadline and not self._stop.is_set():
            if self._failures and self._passes > asked:
                break
        self._stop.set()
        self.wake()
        for thread in self._threads:
            thread.join(timeout=max(0.5, deadline - time.monotonic()))
        left = sum(delivery.pending for delivery in self._snapshot())
        if not any(thread.is_alive() for thread in self._threads):  # a hanging request still uses its spool
            self._retire(everything=True)
            with contextlib.suppress(OSError):
                forget_oldest(self.spool_dir)
        return left

    def _snapshot(self) -> list[Delivery]:
        with self._lock:
            return list(self._deliveries.values())

    def _start_threads(self) -> None:
        if not self._threads and not self._stop.is_set():
            for name, loop in (("sync", self._sync_loop), ("upload", self._upload_loop)):
                thread = threading.Thread(target=loop, name=f"vitray-tracking-{name}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _sync_loop(self) -> None:
        while not self._stop.wait(SYNC_EVERY_S):
            for delivery in self._snapshot():
                with contextlib.suppress(OSError):  # removed meanwhile, or a disk that append() complains about
                    delivery.spool.sync()

    def _upload_loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._deliver_all()
                self._is_back()
            except UnavailableError as error:
                self._is_away(error)
            except Exception as error:  # a fault of ours must not silently end all uploading
                logger.debug("while uploading", exc_info=True)
                self._is_away(error)
            self._retire()
            with self._passed:
                self._passes += 1
                self._passed.notify_all()
            pause = min(BACKOFF_S[1], BACKOFF_S[0] * 2 ** min(10, self._failures - 1)) if self._failures else None
            self._wake.wait(pause or self._interval_s)
            self._wake.clear()

    def _deliver_all(self) -> None:
        for delivery in self._snapshot():
            if delivery.pending and family(delivery.run) not in self._lost.names:  # their beginnings go first
                delivery.deliver()
        for name in sorted(self._lost.names):
            self._bring_back(name)
        if not self._adopted:
            for folder in leftovers(self.spool_dir):
                if not self._stop.is_set() and (adopted := self._adopt(folder)):
                    adopted.deliver()
            self._adopted = True

    def _is_lost(self, delivery: Delivery) -> None:
        self._lost.add(family(delivery.run))

    def _bring_back(self, name: str) -> None:
        """Send again what the server was ever sent of a family: those that go on, with what was compacted of them
        when they were interrupted, and those that are over. A parent comes before its children, which name it."""
        going_on = [delivery for delivery in self._snapshot() if family(delivery.run) == name]
        for delivery in going_on:
            delivery.forget()
        for delivery in going_on:
            send_again(self.spool_dir, name, self._server, only=delivery.run)
            delivery.deliver()
        over = send_again(self.spool_dir, name, self._server, but={delivery.run for delivery in going_on})
        self._lost.done(name)
        logger.warning("%d runs of %r that MLflow had lost are there again", len(going_on) + over, name)

    def _adopt(self, folder: Path) -> Delivery | None:
        """Take over what an earlier process left behind for this store. A living process keeps its spools locked; those
        stay its own.

        Until it is delivered the spool counts as this process's, so that a run that resumes here goes on with it.
        """
        with contextlib.suppress(TrackingError, OSError), self._lock:
            if any(delivery.spool.folder == folder for delivery in self._deliveries.values()):
                return None
            delivery = take_over(folder, self._server)
            if delivery is not None:
                delivery.on_lost = self._is_lost
                self._deliveries[delivery.run] = delivery
            return delivery
        return None

    def _retire(self, *, everything: bool = False) -> None:
        """Remove spools that are over and delivered. Let go of adopted ones that have to wait, and of all at the end.

        A spool that is held locked could not be resumed by the process it belongs to.
        """
        over = []
        with self._lock:
            for run, delivery in list(self._deliveries.items()):
                if self._in_use.get(run):
                    continue
                if delivery.finished:
                    over.append(delivery)
                elif everything or (run not in self._own and (self._failures or not delivery.pending)):
                    delivery.spool.close()
                else:
                    continue
                del self._deliveries[run]
        for delivery in over:  # not under the lock: compacting a long run takes long, and others have to report
            finish(delivery)

    def _is_away(self, error: Exception) -> None:
        self._failures += 1
        self._adopted = False  # what was adopted is let go, and looked for again when the server is back
        if self._failures == 1:
            logger.warning(
                "MLflow at %s takes no reports (%s); the training goes on, they wait in %s",
                public(self._server.tracking_uri),
                masked(brief(error)),
                self.spool_dir,
            )

    def _is_back(self) -> None:
        if self._failures:
            logger.warning("MLflow at %s is back, and has everything that waited", public(self._server.tracking_uri))
        self._failures = 0
