"""The tracker that ends in MLflow: reports go to a spool on disk, a background thread brings them to the server.

Training never waits for MLflow and never dies of it: a dead, slow or failing server costs one warning and a growing
spool, which is sent when the server is back, by this process or by the next one that uses the same spool folder. A full
disk costs one warning and some memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vitray.masking import masked_values, public
from vitray.tracking.server import Server
from vitray.tracking.tracker import DatasetInput, Status, check_run_key, check_status, not_started, now_ms
from vitray.tracking.uploader import Uploader

CLOSE_WAIT_S = 15.0
MOST_UNWRITTEN = 100_000  # reports in memory while the disk takes none; then the oldest go
logger = logging.getLogger("vitray.tracking")


@dataclass(frozen=True)
class _Unwritten:
    run: str
    kind: str
    body: dict[str, Any]
    durable: bool


class MlflowTracker:
    """A :class:`~vitray.tracking.tracker.Tracker` on an MLflow server or database.

    Args:
        tracking_uri: ``http(s)://...``, or a database such as ``sqlite:////path/mlflow.db``.
        spool_dir: where reports wait until the server has them.
        artifact_root: where experiments of an embedded store keep artifacts; a server decides for itself.
        interval_s: seconds between two uploads of a run in progress.
    """

    def __init__(
        self, tracking_uri: str, spool_dir: str | Path, artifact_root: str | Path, *, interval_s: float = 1.0
    ) -> None:
        server = Server(tracking_uri, Path(artifact_root).resolve())
        self._uploader = Uploader(server, Path(spool_dir).resolve(), interval_s)
        self._store = public(tracking_uri)
        self._lock = threading.Lock()
        self._started: dict[str, dict[str, Any]] = {}
        self._writing = threading.RLock()
        self._unwritten: deque[_Unwritten] = deque()
        self._disk_failed, self._dropped = False, 0

    def start_run(
        self,
        run: str,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
    ) -> None:
        """As the protocol says.

        Raises:
            TrackingError: another living process reports to this run.
        """
        check_run_key(run)
        body = {
            "run": run,
            "store": self._store,
            "name": name,
            "experiment": experiment,
            "parent": parent,
            "timestamp_ms": now_ms(),
            "params": masked_values({key: _plain(value) for key, value in params.items()}),
            "tags": masked_values({key: str(value) for key, value in tags.items()}),
        }
        with self._lock:
            self._started[run] = body
        self._take(run, "start", body)
        self._uploader.wake()

    def log_metrics(
        self, run: str, metrics: Mapping[str, float], *, step: int, timestamp_ms: int | None = None
    ) -> None:
        values = {key: float(value) for key, value in metrics.items()}
        stamp = now_ms() if timestamp_ms is None else timestamp_ms
        self._take(run, "metrics", {"step": int(step), "timestamp_ms": stamp, "values": values}, durable=False)

    def log_artifact(self, run: str, path: str | Path, folder: str = "") -> None:
        if not Path(path).exists():
            raise FileNotFoundError(path)
        self._take(run, "artifact", {"path": str(path), "folder": folder})

    def log_input(self, run: str, dataset: DatasetInput) -> None:
        self._take(run, "input", asdict(replace(dataset, facts=dict(dataset.facts))))

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        self._take(run, "tags", {"tags": masked_values({key: str(value) for key, value in tags.items()})})

    def end_run(self, run: str, status: Status) -> None:
        check_status(status)
        self._take(run, "end", {"status": status, "timestamp_ms": now_ms()})
        self._uploader.wake()

    def flush(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not self._all_written() and time.monotonic() < deadline:
            time.sleep(min(0.2, timeout_s))
        return self._uploader.drain(max(0.0, deadline - time.monotonic())) and self._all_written()

    def _all_written(self) -> bool:
        with self._writing:
            self._write_down()
            return not self._unwritten

    @property
    def away(self) -> bool:
        """True while the server takes no reports."""
        return self._uploader.away

    def close(self) -> None:
        if not self._all_written() or self._dropped:
            lost = len(self._unwritten) + self._dropped
            logger.warning("reports are being lost: %d, since %s cannot be written", lost, self._uploader.spool_dir)
            self._unwritten.clear()
            self._dropped = 0
        left = self._uploader.close(CLOSE_WAIT_S)
        if left:
            logger.warning(
                "the reports of %d run(s) wait in %s: the next vitray command that tracks brings them to MLflow, or "
                "at once: vitray track sync",
                left,
                self._uploader.spool_dir,
            )

    def _take(self, run: str, kind: str, body: dict[str, Any], *, durable: bool = True) -> None:
        """Onto the disk; or, while the disk is full or gone, into memory, and on the disk when that can be: neither
        must it stop the training."""
        with self._lock:
            start = self._started.get(run)
        if start is None:
            raise not_started(run)
        if kind == "artifact":
            body = {**body, "origin": str(Path(body["path"]).resolve())}
        with self._writing:
            self._unwritten.append(_Unwritten(run, kind, body, durable))
            self._write_down()

    def _write_down(self) -> None:
        """What was taken and is not on the disk yet, in order, as far as the disk takes it."""
        while self._unwritten:
            try:
                self._write(self._unwritten[0])
            except OSError as error:
                if not self._disk_failed:
                    where = self._uploader.spool_dir
                    logger.warning("%s cannot be written (%s); reports are kept in memory until it can", where, error)
                self._disk_failed = True
                if len(self._unwritten) > MOST_UNWRITTEN:
                    self._unwritten.popleft()
                    self._dropped += 1
                return
            except BaseException:  # another process has the run: whoever reports hears of it
                self._unwritten.popleft()
                raise
            self._unwritten.popleft()
        if self._disk_failed:
            logger.warning("%s can be written again", self._uploader.spool_dir)
        self._disk_failed = False

    def _write(self, taken: _Unwritten) -> None:
        run, kind, body = taken.run, taken.kind, taken.body
        with self._uploader.using(run) as spool:
            if kind != "start" and spool.size == 0:  # ended, delivered, removed: a late word needs a beginning
                spool.append("start", {**self._started[run], "late": True, "params": {}})
            if kind == "artifact":
                if not Path(body["origin"]).exists():  # it is gone by now, and no wait brings it back
                    return
                body = {**body, "path": spool.keep_file(Path(body["origin"]))}
            spool.append(kind, body, durable=taken.durable)


def _plain(value: Any) -> Any:
    """A parameter as JSON can hold it; anything else as its text."""
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
