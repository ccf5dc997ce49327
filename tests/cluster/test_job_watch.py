"""Watching a job through a network that fails: what is waited out, what is told, and what a stop waits for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from vitray.cli.jobs_follow import Looking, follow_to_end
from vitray.cluster import job_memory, job_room, job_watch
from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_memory import Submitted
from vitray.cluster.job_records import Job
from vitray.cluster.job_room import Nodes
from vitray.cluster.jobs import OPTIONS, goes_on_with, jobs
from vitray.errors import VitrayError

RUNNING = {"submission_id": "j", "status": "RUNNING", "driver_node_id": "n", "metadata": {"vitray.kind": "train"}}
LOG = "Running entrypoint\nvitray 1: train\nrun a: state in /h\nlast, with é\n"
Answer = tuple[int, Any]


class Cluster:
    """A dashboard whose answers a test decides; ``asked`` are the requests so far, as ``GET /path``."""

    def __init__(self, url: str) -> None:
        self.dashboard = Dashboard(url)
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[int], Answer]] = {}

    def on(self, request: str, answer: Callable[[int], Answer]) -> None:
        """``answer`` is given how often the same was asked before."""
        self.answers[request] = answer

    def answer(self, request: str) -> Answer:
        before = self.asked.count(request)
        self.asked.append(request)
        return self.answers[request](before) if request in self.answers else (500, "nothing known of it")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name, seconds in {"_AWAY_S": 0.5, "_POLL_S": 0.01, "_SLOW_POLL_S": 0.01, "_BEGINS_S": 0.5}.items():
        monkeypatch.setattr(job_watch, name, seconds)  # of the half minute and more that people are given

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, said = found.answer(f"{self.command} {self.path.partition('?')[0]}")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said if isinstance(said, bytes) else json.dumps(said).encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Cluster(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def said(status: str, **more: Any) -> dict[str, Any]:
    metadata = {"vitray.kind": "train", **more.pop("metadata", {})}
    return {"submission_id": "j", "status": status, "start_time": 1000, "metadata": metadata, **more}


def nothing(_: str) -> None: ...


def test_a_dropped_connection_is_not_the_jobs_end(cluster: Cluster) -> None:
    ended = said("FAILED", driver_exit_code=3)
    cluster.on("GET /api/jobs/j", lambda before: (502, "") if before < 2 else (200, ended))
    assert job_watch.wait(cluster.dashboard, Job.of(said("RUNNING")), tell=nothing).exit_code == 3


def test_a_cluster_that_stays_away_is_an_error_of_its_own_code(cluster: Cluster) -> None:
    gone = Dashboard("http://127.0.0.1:1")
    for watch in (job_watch.wait, lambda *args, **more: list(job_watch.follow(*args, **more))):
        with pytest.raises(VitrayError, match="cannot be seen any more") as lost:
            watch(gone, Job.of(said("RUNNING", driver_node_id="n")), tell=nothing)
        assert lost.value.exit_code == 1, "2 would be taken for the job's"
        assert "the job may go on" in str(lost.value)


@pytest.mark.parametrize(("tail", "shown"), [(None, LOG), (2, "run a: state in /h\nlast, with é\n"), (0, "")])
@pytest.mark.parametrize("streams", [True, False])
def test_a_log_is_followed_with_and_without_its_stream(
    cluster: Cluster, tail: int | None, shown: str, streams: bool
) -> None:
    """Without: an error of the dashboard's, and not a word of it to the user."""
    ended = said("SUCCEEDED", driver_node_id="n")
    cluster.on("GET /api/jobs/j", lambda before: (200, ended if before > 5 else said("RUNNING", driver_node_id="n")))
    cluster.on("GET /api/jobs/j/logs", lambda before: (200, {"logs": LOG if before else LOG[:-9]}))
    if tail is not None:
        cluster.on("GET /api/jobs/j/logs", lambda _: (200, {"logs": LOG}))
    if streams:
        cluster.on("GET /api/v0/logs/stream", lambda _: (200, LOG[:-5].encode()))
    job = Job.of(said("RUNNING", driver_node_id="n"))
    assert "".join(job_watch.follow(cluster.dashboard, job, tail=tail, tell=nothing)) == shown


def test_what_was_shown_is_enough_where_the_rest_of_the_log_is_gone(cluster: Cluster) -> None:
    cluster.on("GET /api/jobs/j", lambda _: (200, said("FAILED", driver_node_id="n")))
    cluster.on("GET /api/v0/logs/stream", lambda _: (200, LOG.encode()))
    job = Job.of(said("RUNNING", driver_node_id="n"))
    assert "".join(job_watch.follow(cluster.dashboard, job, tell=nothing)) == LOG


def test_a_job_is_stopped_when_it_can_hear_it(cluster: Cluster) -> None:
    """Ray interrupts its driver once, which cannot have been told before its first line."""
    cluster.on("GET /api/jobs/j", lambda before: (200, said("PENDING" if before < 2 else "RUNNING")))
    cluster.on("GET /api/jobs/j/logs", lambda before: (200, {"logs": LOG if before > 1 else "Running entrypoint\n"}))
    cluster.on("POST /api/jobs/j/stop", lambda _: (200, {"stopped": True}))
    assert job_watch.stop(cluster.dashboard, Job.of(said("PENDING")))
    assert cluster.asked.count("GET /api/jobs/j/logs") == 3
    assert cluster.asked[-1] == "POST /api/jobs/j/stop"


def test_a_job_that_does_not_begin_is_stopped_all_the_same(cluster: Cluster) -> None:
    cluster.on("GET /api/jobs/j", lambda _: (200, said("PENDING")))
    cluster.on("POST /api/jobs/j/stop", lambda _: (200, {"stopped": True}))
    assert job_watch.stop(cluster.dashboard, Job.of(said("PENDING")))
    cluster.on("GET /api/jobs/j", lambda _: (200, said("SUCCEEDED")))
    assert not job_watch.stop(cluster.dashboard, Job.of(said("RUNNING"))), "it ended by itself meanwhile"
    assert cluster.asked.count("POST /api/jobs/j/stop") == 1


def test_a_cluster_that_has_just_started_is_given_time_to_show_its_nodes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"raylet": {"state": "ALIVE", "resourcesTotal": {"CPU": 3.0}}, "agent": {"pid": 0}}
    head = {"raylet": {"state": "ALIVE", "resourcesTotal": {}}, "agent": {"pid": 0}}
    shown = [[], [], [{**head, "agent": {}}], [head], [head, node]]
    cluster.on("GET /nodes", lambda before: (200, {"data": {"summary": shown[min(before, 4)]}}))
    assert Nodes.of(cluster.dashboard).room["cpus"] == 3
    assert len(cluster.asked) == 5
    monkeypatch.setattr(job_room, "_FIRST_CPUS_S", 0.0)
    cluster.on("GET /nodes", lambda _: (200, {"data": {"summary": [head]}}))
    assert Nodes.of(cluster.dashboard).room["cpus"] == 0, "and a head without workers is refused all the same"
    monkeypatch.setattr(job_room, "_FIRST_NODE_S", 0.0)
    cluster.on("GET /nodes", lambda _: (200, {"data": {"summary": []}}))
    assert Nodes.of(cluster.dashboard).count == 0, "and a cluster of none is no endless wait"


def test_what_a_job_was_submitted_with_is_part_of_how_to_go_on(cluster: Cluster) -> None:
    cluster.on("GET /api/jobs/j/logs", lambda _: (200, {"logs": LOG}))
    plain = Job.of(said("STOPPED"))
    assert goes_on_with(cluster.dashboard, plain) == "vitray jobs submit train --resume a"
    further = Job.of(said("STOPPED", metadata={OPTIONS: "--home /shared --stop-s 9"}))
    assert goes_on_with(cluster.dashboard, further) == "vitray jobs submit train --resume a --home /shared --stop-s 9"


def test_a_job_whose_head_was_started_anew_is_lost(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.on("GET /api/version", lambda _: (200, {"ray_version": "2", "session_name": "session_2026-02"}))
    cluster.on("GET /api/jobs/j", lambda before: (404, "no such job") if before else (200, RUNNING))
    cluster.on("GET /api/jobs/", lambda _: (200, []))
    cluster.on("GET /api/v0/logs/stream", lambda _: (200, LOG.encode()))
    url = cluster.dashboard.url
    note = Submitted("j", "train", "a", "x", url, "session_2026-01", 1000.0, {OPTIONS: "--stop-s 9"})
    job_memory.remember(note)
    job_memory.remember(replace(note, id="elsewhere", url="http://other:8265"))
    job_memory.remember(replace(note, id="newer", session="session_2026-02"))
    assert follow_to_end(Looking(cluster.dashboard, None), Job.of(RUNNING)) == 1
    shown = capsys.readouterr()
    assert "last, with" in shown.out
    assert "j: lost: the cluster's head was started anew" in shown.err
    assert "go on with: vitray jobs submit train --resume j --stop-s 9" in shown.err
    there = cluster.dashboard.now()
    (listed,) = jobs(there)
    assert (listed.id, listed.status, listed.name) == ("j", "LOST", "a")
    job_memory.goes_on(there, "train", "j")
    assert jobs(there) == []
