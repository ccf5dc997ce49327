"""The ledger that the faults are judged by: it sees what is missing, what is doubled, and what was done for nothing."""

from __future__ import annotations

import json
from pathlib import Path

from ledger import Ledger, missing_and_doubled

_ROWS, _STEPS = 4, 2  # two steps of two samples, one of each rank


def wrote(folder: Path, begun: int, rank: int, size: int, steps: dict[int, list[int]]) -> None:
    lines = [
        {"step": step, "rank": rank, "size": size, "samples": samples, "at": begun + step / 10}
        for step, samples in steps.items()
    ]
    text = "\n".join(map(json.dumps, lines))
    (folder / f"{begun}.{rank}-1.steps").write_text(text + '\n{"step": 9, "ra')  # killed while it wrote


def judged(folder: Path) -> tuple[int, int]:
    return missing_and_doubled(Ledger(folder).seen(), _ROWS, _STEPS)


def test_whoever_goes_on_from_a_checkpoint_takes_the_place_of_what_was_done_after_it(tmp_path: Path) -> None:
    for rank, mine in enumerate(([0, 2], [1, 3])):
        wrote(tmp_path, 10, rank, 2, {1: mine[:1], 2: mine[1:], 3: [9]})
    wrote(tmp_path, 20, 0, 1, {3: [3, 1], 4: [2, 0]})
    ledger = Ledger(tmp_path)
    assert ledger.seen() == {1: (0, 1), 2: (2, 3), 3: (3, 1), 4: (2, 0)}
    assert judged(tmp_path) == (0, 0)
    assert ledger.done_again() == 1
    assert ledger.steps == 4
    assert ledger.next_step_after(15) == 20.3 - 15
    assert ledger.next_step_after(10.15, of_new_processes=False) == 10.2 - 10.15
    assert ledger.next_step_after(30) is None


def test_a_step_that_nobody_took_is_missing_and_one_that_was_taken_in_another_place_is_doubled(tmp_path: Path) -> None:
    wrote(tmp_path, 10, 0, 1, {1: [0, 1]})
    assert judged(tmp_path) == (2, 0)
    wrote(tmp_path, 20, 0, 1, {2: [1, 2]})  # and not 2 and 3
    assert judged(tmp_path) == (1, 1)


def test_a_checkpoint_that_was_skipped_shows(tmp_path: Path) -> None:
    """Who goes on one step too late leaves a hole."""
    wrote(tmp_path, 10, 0, 1, {1: [0, 1]})
    wrote(tmp_path, 20, 0, 1, {3: [0, 1], 4: [2, 3]})
    assert judged(tmp_path) == (2, 0)
