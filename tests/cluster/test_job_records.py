"""How jobs are named, and what their ends mean."""

from __future__ import annotations

from typing import Any

import pytest

from vitray.cluster.job_records import Job, named, newest_first
from vitray.errors import ConfigError


def said(number: str, **more: Any) -> dict[str, Any]:
    return {"type": "SUBMISSION", "submission_id": number, "status": "RUNNING", "start_time": 1000, **more}


JOBS = newest_first(
    [
        said("train-digits-a1b2c3", metadata={"vitray.kind": "train", "vitray.name": "digits"}),
        said("train-digits-a1ffff", metadata={"vitray.name": "digits"}, start_time=2000),
        said("sweep-big-0a0a0a", metadata={"vitray.name": "big"}, start_time=3000),
        said("raysubmit_Zx", start_time=4000),
        {"type": "DRIVER", "job_id": "01000000", "status": "RUNNING"},
    ]
)


def test_the_newest_is_first_and_mere_drivers_are_no_jobs() -> None:
    assert JOBS[0].id == "raysubmit_Zx"
    assert len(JOBS) == 4


@pytest.mark.parametrize("wanted", ["sweep-big-0a0a0a", "sweep", "big", "s"])
def test_an_id_its_beginning_or_a_name_is_enough(wanted: str) -> None:
    assert named(JOBS, wanted).id == "sweep-big-0a0a0a"


def test_of_several_of_a_name_the_one_that_has_not_ended_is_meant() -> None:
    """A run that was stopped and resumed: two jobs."""
    metadata = {"vitray.name": "digits"}
    before = said("train-digits-aa", metadata=metadata, status="STOPPED")
    assert named(newest_first([before, said("train-digits-bb", metadata=metadata)]), "digits").id == "train-digits-bb"
    with pytest.raises(ConfigError, match="2 jobs are meant"):
        named(newest_first([before, {**before, "submission_id": "train-digits-cc"}]), "digits")


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("digits", "2 jobs are meant by 'digits': train-digits-a1ffff (running), train-digits-a1b2c3 (running)"),
        ("train-digits-a1", "2 jobs are meant"),
        ("sweep-big-0a0a0b", "did you mean 'sweep-big-0a0a0a'"),
        ("quite else", "vitray jobs list shows them all"),
        ("", "there is no job ''"),
    ],
)
def test_what_is_ambiguous_or_unknown_is_refused(wanted: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        named(JOBS, wanted)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("facts", "code", "unfinished"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0, False),
        ({"status": "FAILED", "driver_exit_code": 2}, 2, False),
        ({"status": "FAILED", "driver_exit_code": 1}, 1, True),
        ({"status": "FAILED", "driver_exit_code": 130}, 130, True),
        ({"status": "FAILED", "driver_exit_code": -9}, 1, True),
        ({"status": "FAILED"}, 1, True),
        ({"status": "STOPPED"}, 130, True),
    ],
)
def test_an_end_has_the_exit_code_of_the_command(facts: dict[str, Any], code: int, unfinished: bool) -> None:
    job = Job.of(said("x") | facts)
    assert (job.exit_code, job.unfinished, job.over) == (code, unfinished, True)
