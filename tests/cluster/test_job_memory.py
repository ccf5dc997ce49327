"""What is remembered of jobs outside of their cluster, and that nothing of it is left when it is of no more use."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_memory import Submitted, forget, goes_on, lost, name_of, note_run, remember, run_of
from vitray.cluster.job_records import Job
from vitray.cluster.jobs import goes_on_with
from vitray.errors import ConfigError
from vitray.home import Home

URL = "http://127.0.0.1:8265"
NOTE = Submitted("train-a-1", "train", "a", "x", URL, "session_2026-11-27_10-00", time.time(), {})
AFTER = Dashboard(URL, session="session_2026-11-28_09-00")


@pytest.fixture
def home() -> Home:
    """VITRAY_HOME of the test, which nobody has made."""
    return Home.find()


def test_only_what_another_head_has_taken_is_lost(home: Home) -> None:
    remember(NOTE)
    remember(replace(NOTE, id="train-b-1", session=AFTER.session))
    remember(replace(NOTE, id="train-c-1", url="http://10.0.0.1:8265"))
    remember(replace(NOTE, id="train-d-1"))
    known = Job.of({"submission_id": "train-d-1", "status": "RUNNING"})
    assert [job.id for job in lost(AFTER, [known])] == ["train-a-1"]
    assert lost(Dashboard(URL, session=NOTE.session), []) == [], "it was deleted there"
    assert name_of("train-a-1") == "a"


def test_what_has_ended_is_forgotten_and_leaves_nothing(home: Home) -> None:
    remember(NOTE)
    ended = Job.of({"submission_id": NOTE.id, "status": "FAILED"})
    assert lost(AFTER, [ended]) == []
    assert not home.root.exists()
    forget(["never-known"])
    assert not home.root.exists()


def test_old_notes_go(home: Home) -> None:
    remember(NOTE)
    path = next(home.jobs.iterdir())
    os.utime(path, (0, 0))
    remember(replace(NOTE, id="train-b-1"))
    assert [path.name for path in home.jobs.iterdir()] == ["train-b-1.submitted.json"]


def test_a_job_goes_on_by_the_name_of_its_run_or_by_its_id(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run may have another name than the job: ``a`` was taken."""
    remember(NOTE)
    remember(replace(NOTE, id="train-a-2", home=str(home.root)))
    remember(replace(NOTE, id="train-a-3", home=str(home.root)))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "train-a-2"}}))
    note_run(home, "a-2")
    assert run_of(home, "train-a-2") == "a-2"
    assert run_of(home, "train-a-1") is None
    said = {job.id: goes_on_with(AFTER, job) for job in lost(AFTER, [])}
    assert said == {
        "train-a-1": "vitray jobs submit train --resume train-a-1",  # its state folder is not seen from here
        "train-a-2": "vitray jobs submit train --resume a-2",
        "train-a-3": "submit the same again: it had not begun",
    }
    goes_on(AFTER, "train", "a-2")
    assert [job.id for job in lost(AFTER, [])] == ["train-a-1", "train-a-3"]


def test_nobody_submitted_what_has_no_number(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    note_run(home, "a")
    assert not home.root.exists()


def test_a_note_that_cannot_be_read_is_none(home: Home) -> None:
    remember(NOTE)
    (home.jobs / "torn.submitted.json").write_text("{")
    assert len(lost(AFTER, [])) == 1


def test_a_job_that_had_not_begun_is_named(home: Home, tmp_path: Path) -> None:
    from vitray.cluster.launch import train

    with pytest.raises(ConfigError, match="there is no run named 'train-a-1'"):
        train(None, home, None, resume="train-a-1")  # type: ignore[arg-type]  # nobody gets to watch
