"""The file of a scoring: whole or not there, every row once after any kill, and never another scoring's."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from vitray.data.sources.source import Chunk
from vitray.errors import DataError, InterruptedRunError
from vitray.inference.results import About, Results, check_target, finished, partial_folder
from vitray.inference.schema import SCORED
from vitray.inference.scoring import Execute, Scored, score_into
from vitray.inference.units import Unit

ABOUT = About("digits", "a" * 64, "photos", "b" * 64, 3, 10)
CHUNKS = [Chunk(number, number, 10) for number in range(12)]


def table(unit: int) -> pa.Table:
    """Ten rows, one of them bad, two of them labelled and one of these right."""
    names = [f"photos/{unit}-{row}.jpg" for row in range(10)]
    top = [[{"label": "cat", "probability": 0.75}, {"label": 'dog, "big"', "probability": 0.25}]] * 9 + [None]
    labels = ["cat"] * 9 + [None]
    return pa.table(
        {"path": names, "label": labels, "probability": [0.75] * 9 + [None], "top": top,
         "truth": ["cat", "dog"] + [None] * 8, "error": [None] * 9 + ["truncated JPEG"]},
        schema=SCORED,
    )  # fmt: skip


def execute(*, stop: int | None = None, how: BaseException | int = 0) -> Execute:
    """Gives the units' tables; before unit ``stop`` it raises ``how``, or is killed by that signal."""

    @contextmanager
    def run(units: Sequence[Unit]) -> Iterator[Iterator[pa.Table]]:
        def tables() -> Iterator[pa.Table]:
            for unit in units:
                if unit.number == stop:
                    if isinstance(how, BaseException):
                        raise how
                    os.kill(os.getpid(), how)
                yield table(unit.number)

        yield tables()

    return run


def score(path: Path, about: About = ABOUT, *, run: Execute | None = None, overwrite: bool = False) -> Scored:
    return score_into(str(path), about, CHUNKS, run or execute(), overwrite=overwrite)


EXPECTED = [name for unit in range(12) for name in table(unit)["path"].to_pylist()]


def _killed(path: Path, stop: int, monkeyed: bool) -> None:
    import vitray.inference.results as results

    results._SECONDS = 0.0 if monkeyed else 1e9  # a part a unit, or none before the end
    score(path, run=execute(stop=stop, how=signal.SIGKILL))


@pytest.mark.parametrize("parts", [True, False])
def test_a_killed_scoring_goes_on_and_has_every_row_once(tmp_path: Path, parts: bool) -> None:
    path = tmp_path / "scores.parquet"
    for stop in (3, 7, 8) if parts else (5,):
        process = multiprocessing.get_context("fork").Process(target=_killed, args=(path, stop, parts))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not path.exists()
    done = score(path)
    assert done.resumed == (80 if parts else 0)
    assert pd.read_parquet(path).path.tolist() == EXPECTED
    assert (done.tally.images, done.tally.bad, done.tally.classes) == (120, 12, {"cat": 108})
    assert (done.tally.labelled, done.tally.accuracy) == (24, 0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["scores.parquet"]
    assert finished(str(path), ABOUT) == done.tally


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with pytest.raises(InterruptedRunError, match="unit 4 of 12; 40 images are kept") as error:
        score(path, run=execute(stop=4, how=KeyboardInterrupt()))
    assert error.value.exit_code == 130
    with pytest.raises(DataError, match="no room"):
        score(path, run=execute(stop=6, how=DataError("no room")))
    assert score(path).resumed == 60
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == EXPECTED


def test_parts_that_do_not_follow_each_other_are_scored_again(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with Results.open(str(path), ABOUT) as results:
        for unit in range(6):
            results.add(table(unit))
            results.commit()
    folder = partial_folder(path)
    (folder / "part-00000002-00000003.parquet").unlink()
    (folder / "part-00000009-00000010.draft").write_bytes(b"torn")
    done = score(path)
    assert done.resumed == 20
    assert pd.read_parquet(path).path.tolist() == EXPECTED


def test_units_stay_as_the_first_scoring_cut_them(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with pytest.raises(InterruptedRunError):
        score(path, run=execute(stop=4, how=KeyboardInterrupt()))
    assert score(path, replace(ABOUT, unit_images=30)).resumed == 40  # another machine, other numbers of workers
    assert pd.read_parquet(path).path.tolist() == EXPECTED


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "other", "model_digest": "c" * 64}, "of another model (digits, not other)"),
        ({"source_stamp": "c" * 64}, "of photos, whose files have changed since"),
        ({"source": "pics", "source_stamp": "c" * 64}, "of photos, not pics"),
        ({"top_k": 5}, "with --top 3"),
    ],
)
def test_another_scoring_is_refused_in_words_and_begins_anew_when_told(
    tmp_path: Path, change: dict[str, str], says: str
) -> None:
    path, other = tmp_path / "scores.parquet", replace(ABOUT, **change)  # type: ignore[arg-type]
    with pytest.raises(InterruptedRunError):
        score(path, run=execute(stop=4, how=KeyboardInterrupt()))
    with pytest.raises(DataError) as error:
        score(path, other)
    assert f"is the beginning of a scoring {says}" in str(error.value)
    assert "--overwrite" in str(error.value)
    assert score(path).resumed == 40  # the refusal harmed nothing
    with pytest.raises(DataError) as error:
        finished(str(path), other)
    assert f"is a finished scoring {says}" in str(error.value)
    assert score(path, other, overwrite=True).resumed == 0
    assert finished(str(path), other) is not None


def test_a_folder_is_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with Results.open(str(path), ABOUT), pytest.raises(DataError, match="another process writes there"):
        score(path)


def test_csv_and_json_lines_say_the_same_as_parquet(tmp_path: Path) -> None:
    for kind in ("parquet", "csv", "jsonl"):
        score(tmp_path / f"scores.{kind}")
    parquet = [row for unit in range(12) for row in table(unit).to_pylist()]
    assert [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()] == parquet
    assert pd.read_parquet(tmp_path / "scores.parquet").columns.tolist() == SCORED.names
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == EXPECTED
    assert (rows[0]["probability"], rows[9]["error"], rows[9]["label"]) == ("0.75", "truncated JPEG", "")
    assert json.loads(rows[0]["top"]) == [["cat", 0.75], ['dog, "big"', 0.25]]


def test_targets_that_cannot_be_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.parquet").write_bytes(b"somebody's")
    Path("folder.parquet").mkdir()
    score(tmp_path / "ours.parquet")
    for path, says in {
        "scores.xlsx": "must end in .parquet, .csv, .jsonl",
        "s3://bucket/scores.parquet": "must be a file of this machine",
        "folder.parquet": "is a folder",
        "none/scores.parquet": "there is no folder none",
        "there.parquet": "exists already",
    }.items():
        with pytest.raises(DataError) as error:
            check_target(path, overwrite=False)
        assert says in str(error.value)
    check_target("there.parquet", overwrite=True)
    check_target("ours.parquet", overwrite=False)  # finished: whose it is, finished() says
    check_target("new.csv", overwrite=False)
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(DataError, match="would be lost with Ray's copy"):
        check_target("scores.parquet", overwrite=False)
