"""Brings one run's spool to MLflow: in order, in batches, and so that doing it twice changes nothing."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitray.masking import MASK, masked, public
from vitray.tracking.finished import REPLAY, first_record
from vitray.tracking.mlflow_client import brief, sqlite_path
from vitray.tracking.server import RefusedError, RunGoneError, Server, UnavailableError
from vitray.tracking.spool import Record, Spool, compacted_file
from vitray.tracking.tracker import HighWater, Point

POINTS_PER_BATCH = 1000  # MLflow's limit for one request
logger = logging.getLogger("vitray.tracking")


class Delivery:
    """What the server has of one spool, and the way to bring it the rest.

    The state (file offset, MLflow id, highest step of each metric) is saved after every batch. A kill between a batch
    and its state costs a replay, which MLflow ignores: same key, step, timestamp and value. Without any state the run
    is found by its tag, and the steps it already has are asked of the server. Not so where the spool holds all that
    the run ever reported, and the server may lack some of it anywhere (an older backup): that is a replay as well.

    ``on_lost``: is told when the server does not know the run any more, and sees to it that it gets there again;
    without one it is sent anew at once.
    """

    def __init__(self, run: str, spool: Spool, server: Server) -> None:
        self.run, self.spool, self._server = run, spool, server
        self.on_lost: Callable[[Delivery], None] | None = None
        self._warned_refused = self._forgotten = False
        self._store = public(server.tracking_uri)
        state = spool.load_state()
        # What another store has, this one has not.
        self._load(state if is_for(state.get("store"), server.tracking_uri) else {})

    def _load(self, state: dict[str, Any]) -> None:
        self.offset: int = state.get("offset", 0)
        self.ended: bool = state.get("ended", False)
        self._run_id: str | None = state.get("run_id")
        self._deleted: bool = state.get("deleted", False)
        self._replay: bool = state.get("replay", False)
        self._experiment: str = state.get("experiment", "")
        self._high, self._acked = HighWater(state.get("high")), dict(state.get("high", {}))

    def _save(self) -> None:
        self._acked = dict(self._high.steps)
        state: dict[str, Any] = {"offset": self.offset, "ended": self.ended, "run_id": self._run_id}
        state |= {"deleted": self._deleted, "store": self._store, "experiment": self._experiment, "high": self._acked}
        with contextlib.suppress(OSError):  # a full disk: the replay that an old state costs is harmless
            self.spool.save_state(state | (REPLAY if self._replay else {}))

    @property
    def pending(self) -> bool:
        """True while something was taken that the server does not have."""
        return self.offset < self.spool.size

    @property
    def finished(self) -> bool:
        """True when the run has ended and all of it is delivered: the spool can go."""
        return self.ended and not self.pending

    def deliver(self) -> None:
        """Send all there is.

        Raises:
            UnavailableError: the server does not answer; what it has is remembered.
        """
        try:
            self._deliver()
        except RunGoneError:
            logger.warning("MLflow at %s lost run %r; sending it anew", public(self._server.tracking_uri), self.run)
            self.forget()
            if self.on_lost is not None:
                self.on_lost(self)
                return
            try:
                self._deliver()
            except RunGoneError as error:
                raise UnavailableError(f"the run vanished while it was being sent: {error}") from error

    def forget(self) -> None:
        """Nothing that was sent is believed to be there."""
        self._server.forget()
        self._load({} if compacted_file(self.spool.folder).exists() else REPLAY)
        self._forgotten = True
        self._save()

    def _was_sent(self, experiment: str) -> bool:
        """Whether this run, which starts now, was in this store before: then it is missed where it is not found."""
        if self._run_id is not None:
            return self._experiment == experiment and not self._deleted
        beginning = compacted_file(self.spool.folder)
        if self._forgotten or not beginning.exists():
            return False
        first = first_record(beginning)
        return is_for(first.get("store"), self._server.tracking_uri) and first.get("experiment") == experiment

    def _deliver(self) -> None:
        while self.pending:
            records, behind = self.spool.read(self.offset)
            if behind == self.offset:
                break
            plain: list[Record] = []
            for record in records:
                if record.kind in ("metrics", "tags"):
                    plain.append(record)
                else:
                    self._send(plain)
                    plain = []
                    self._apply(record)
            self._send(plain)
            self.offset = behind  # also over damaged lines
            self._save()

    def _send(self, records: list[Record]) -> None:
        """Metrics and tags of consecutive records, in as few requests as the limits allow."""
        points: list[Point] = []
        tags: dict[str, str] = {}
        for index, record in enumerate(records):
            body = record.body
            if record.kind == "tags":
                tags.update(body["tags"])
            else:
                step, stamp = body["step"], body["timestamp_ms"]
                new = ((key, value) for key, value in body["values"].items() if self._high.is_new(key, step))
                points.extend(Point(key, step, float(value), stamp) for key, value in new)
            if len(points) >= POINTS_PER_BATCH or index == len(records) - 1:
                self._log(points, tags)
                self.offset = record.end
                self._save()
                points, tags = [], {}

    def _log(self, points: list[Point], tags: dict[str, str]) -> None:
        if self._run_id is None or self._deleted or not (points or tags):
            return
        try:
            self._server.log(self._run_id, points=points, tags=tags)
        except UnavailableError:
            self._high = HighWater(self._acked)  # these points were not taken after all
            raise
        except RefusedError as error:
            if self._is_deleted():
                return
            if len(points) + len(tags) == 1:
                self._refused(error, {"points": points, "tags": tags})
                return
            for point in points:  # one bad name must not cost its neighbours
                self._log([point], {})
            for key, value in tags.items():
                self._log([], {key: value})

    def _apply(self, record: Record) -> None:
        """A record that has a request of its own: start, input, artifact, end."""
        body = record.body
        try:
            if record.kind == "start":
                known = self._was_sent(body["experiment"])
                run_id, on_server = self._server.ensure_run(self.run, body, known=known)
                if run_id != self._run_id:
                    if known and self._run_id is not None:  # lost, and another process brought its beginning back?
                        self._server.is_deleted(self._run_id)
                    self._high = HighWater()  # deleted: the new one has no steps yet
                self._run_id, self._experiment, self._deleted = run_id, body["experiment"], False
                for key, step in on_server.items() if not self._replay else ():
                    self._high.is_new(key, step)
                self.ended = bool(body.get("late"))
            elif self._run_id is None or self._deleted:
                self.ended = self.ended or record.kind == "end"
            elif record.kind == "artifact":
                kept = body["path"] if Path(body["path"]).exists() else body.get("origin", body["path"])
                self._server.log_artifact(self._run_id, kept, body["folder"])
            elif record.kind == "input":
                self._server.log_input(self._run_id, body)
            elif record.kind == "end":
                self._server.find_run(self.run, self._experiment)  # tidies a twin that a lost request made late
                self._server.end_run(self._run_id, body["status"], body["timestamp_ms"])
                self.ended = True
        except RefusedError as error:
            if self._run_id is None or not self._is_deleted():
                self._refused(error, {record.kind: body})
            self.ended = self.ended or record.kind == "end"
        self.offset = record.end
        self._save()

    def _is_deleted(self) -> bool:
        """True (and said once) when a person deleted the run in MLflow: then the rest of it is not wanted."""
        if self._run_id is not None and not self._deleted and self._server.is_deleted(self._run_id):
            self._deleted = True
            logger.warning("run %r was deleted in MLflow; what it still reports is not sent", self.run)
        return self._deleted

    def _refused(self, error: RefusedError, what: dict[str, Any]) -> None:
        """Keep what MLflow will never take where a person can find it, and go on with the rest."""
        keep = self.spool.folder.parent / "refused.jsonl"
        _append(keep, {"run": self.run, "reason": masked(str(error)), **what})
        if not self._warned_refused:
            self._warned_refused = True
            logger.warning("MLflow refused a part of run %r, kept in %s: %s", self.run, keep, masked(brief(error)))


def take_over(folder: Path, server: Server, *, anywhere: bool = False) -> Delivery | None:
    """The delivery of a spool that its process left behind; None where there is nothing of it, or it was meant for
    another store (unless ``anywhere``).

    Raises:
        TrackingError: a living process has it.
    """
    spool = Spool(folder, wait_s=0.0)
    records, _ = spool.read(0)
    if spool.size == 0:
        spool.remove()
    elif not records or "run" not in records[0].body or not (anywhere or is_for(spool.store, server.tracking_uri)):
        spool.close()
    else:
        return Delivery(records[0].body["run"], spool, server)
    return None


def is_for(store: str | None, tracking_uri: str) -> bool:
    """Whether what was taken for ``store`` belongs to the store at ``tracking_uri``, whoever logs in there.

    An embedded store that is not where it was is this home's, which was moved.
    """
    if store is None or _address(store) == _address(tracking_uri):
        return True
    before, now = sqlite_path(store), sqlite_path(tracking_uri)
    return before is not None and now is not None and before.name == now.name and not before.exists()


def _address(store: str) -> str:
    return public(store).replace(f"{MASK}@", "").rstrip("/")


def finish(delivery: Delivery) -> None:
    """Compact the spool of a run that is over and delivered; where the disk is full, at least remove it."""
    try:
        delivery.spool.compact()
    except OSError:
        delivery.spool.remove()


def _append(path: Path, content: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content, default=str) + "\n")
