"""Attempts at a run: their numbers rise, and what an older one saves once a newer has begun is never read."""

from __future__ import annotations

import contextlib
import errno
import itertools
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from other_processes import CONTEXT, begin_as_rank
from small_runs import assert_bitwise_equal, small_state, tensors_of

from vitray.errors import CheckpointError
from vitray.train import checkpoint_read, patience
from vitray.train.checkpoint import CheckpointStore, Progress, SupersededError, latest_attempt
from vitray.train.checkpoint_files import get
from vitray.train.checkpoint_names import Attempt, History, Name
from vitray.train.checkpoint_place import opened


def save(store: CheckpointStore, step: int) -> Name:
    state, info = small_state(step)
    saved = store.save(state, Progress(step), info)
    store.wait()
    return saved.at


def steps(place: Path) -> list[int]:
    return [saved.step for saved in CheckpointStore(place).committed()]


def cut_off(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that cannot see what others have written since: that of a host whose network was cut."""
    monkeypatch.setattr(store._attempts, "check_newest", lambda history: None)


def test_numbers_rise_over_restarts_and_resumes(tmp_path: Path) -> None:
    numbers = []
    for step in (1, 2, 3):
        store = CheckpointStore(tmp_path)
        store.begin(small_state()[0])
        numbers.append(save(store, step).attempt.number)
        store.close()
        assert latest_attempt(tmp_path) == numbers[-1]
    assert numbers == [1, 2, 3]


def test_what_an_old_writer_saves_past_the_newer_attempts_step_is_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = CheckpointStore(tmp_path, keep_last=5, attempt=1)
    old.begin(small_state()[0])
    save(old, 10)
    cut_off(old, monkeypatch)
    new = CheckpointStore(tmp_path, keep_last=5, attempt=2)
    assert new.begin(small_state()[0]).step == 10
    zombie = save(old, 20)
    assert (tmp_path / zombie.text / "commit.json").is_file(), "it was committed"
    assert steps(tmp_path) == [10]
    state, _ = small_state(99)
    assert CheckpointStore(tmp_path).restore(state).step == 10
    assert_bitwise_equal(tensors_of(state), tensors_of(small_state(10)[0]))
    save(new, 15)
    assert steps(tmp_path) == [15, 10]
    assert not (tmp_path / zombie.text).exists(), "and is removed by the next save"


def test_an_old_writer_that_sees_the_newer_attempt_stops_and_removes_nothing(tmp_path: Path) -> None:
    old = CheckpointStore(tmp_path, keep_last=1, attempt=1)
    old.begin(small_state()[0])
    save(old, 10)
    new = CheckpointStore(tmp_path, keep_last=1, attempt=2)
    new.begin(small_state()[0])
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SupersededError, match="attempt 2 at this run has begun since attempt 1 did"):
        save(old, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_attempt_that_comes_late_does_not_begin(tmp_path: Path) -> None:
    """Its number was given out before that of one which has begun already."""
    CheckpointStore(tmp_path, attempt=3).begin(small_state()[0])
    with pytest.raises(CheckpointError, match="only one process train a run"):
        CheckpointStore(tmp_path, attempt=2).begin(small_state()[0])


def test_a_newer_attempt_takes_the_claim_of_one_that_died_for_begun(tmp_path: Path) -> None:
    """A claim alone rules out nothing that is there, but its number is spent."""
    save(CheckpointStore(tmp_path), 10)
    (tmp_path / Attempt(7, "0123abcd").claim).write_text("{}")
    assert latest_attempt(tmp_path) == 7
    store = CheckpointStore(tmp_path)
    assert store.begin(small_state()[0]).step == 10
    assert save(store, 11).attempt.number == 8
    assert not (tmp_path / Attempt(7, "0123abcd").claim).exists(), "swept"


def test_of_one_step_the_later_save_counts_and_the_later_attempt(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    names = [
        "step-000000010-000001-000002-aaaaaaaa",
        "step-000000010-000001-000003-aaaaaaaa",
        "step-000000010-000002-000001-00000000",
        "step-000000010-0badcafe",
    ]
    for text in names:
        (tmp_path / text).mkdir()
        (tmp_path / text / "commit.json").write_text("")
    found = [name.text for name in History.of(folder).committed]
    assert found == [names[2], names[1], names[0], names[3]]


@pytest.mark.slow
def test_all_ranks_get_what_the_first_has_read(tmp_path: Path) -> None:
    """The others see no file of it: the folder that they are given is empty."""
    save(CheckpointStore(tmp_path / "there"), 10)
    (tmp_path / "nothing").mkdir()
    ends = ranks_begin([tmp_path / "there", tmp_path / "nothing"], tmp_path / "meet")
    assert [end[:2] for end in ends] == [(0, 10), (1, 10)]
    wanted = tensors_of(small_state(10)[0])
    for _, _, tensors in ends:
        assert_bitwise_equal({name: torch.tensor(values) for name, values in tensors.items()}, wanted)


@pytest.mark.slow
def test_what_the_first_rank_cannot_begin_with_ends_all(tmp_path: Path) -> None:
    CheckpointStore(tmp_path / "there", attempt=9).begin(small_state()[0])
    (tmp_path / "nothing").mkdir()
    ends = ranks_begin([tmp_path / "there", tmp_path / "nothing"], tmp_path / "meet")
    assert len(ends) == 2
    assert all("attempt 9 at this run has begun" in end[1] for end in ends)


def ranks_begin(places: list[Path], meet: Path) -> list[tuple[int, Any, Any]]:
    out: multiprocessing.Queue[Any] = CONTEXT.Queue()
    started = [
        CONTEXT.Process(target=begin_as_rank, args=(rank, len(places), meet, place, out))
        for rank, place in enumerate(places)
    ]
    for process in started:
        process.start()
    ends = sorted(out.get(timeout=60) for _ in started)
    for process in started:
        process.join()
    return ends


def test_what_cannot_be_read_for_a_moment_is_read_when_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount of NFS, say: no checkpoint is passed over for it."""
    monkeypatch.setattr(patience, "FIRST_S", 0.01)
    save(CheckpointStore(tmp_path), 10)
    save(CheckpointStore(tmp_path), 20)
    with unreadable(monkeypatch, times=3):
        assert CheckpointStore(tmp_path).begin(small_state()[0]).step == 20


def test_no_run_begins_anew_where_none_of_its_checkpoints_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be whole, and the first save would remove them."""
    monkeypatch.setattr(patience, "FIRST_S", 0.01)
    monkeypatch.setattr(patience, "READ_S", 0.1)
    save(CheckpointStore(tmp_path), 10)
    save(CheckpointStore(tmp_path), 20)
    with (
        unreadable(monkeypatch),
        pytest.raises(CheckpointError, match=r"cannot be read: Input/output error\n.*--resume"),
    ):
        CheckpointStore(tmp_path).begin(small_state()[0])
    assert CheckpointStore(tmp_path).begin(small_state()[0]).step == 20


@contextlib.contextmanager
def unreadable(monkeypatch: pytest.MonkeyPatch, times: int | None = None) -> Iterator[None]:
    """Weights cannot be read, for so many times."""
    left = itertools.count(1)

    def failing(folder: Any, name: str) -> Any:
        if name.endswith("model.safetensors") and (times is None or next(left) <= times):
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
        return get(folder, name)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_read, "get", failing)
        yield
