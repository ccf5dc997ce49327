"""Which checkpoints stay: the newest, and the best by validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vitray.train.checkpoint_names import History, Name


def kept(
    committed: Sequence[Name],
    saved: Name,
    best_step: int | None,
    score_of: Callable[[Name], float | None],
    *,
    last: int,
    best: int,
) -> set[Name]:
    """What of ``committed`` (newest first) stays after ``saved`` was.

    One that is beyond the step just saved was passed over as damaged: it neither stays nor pushes out others. What the
    run calls its best stays whatever its score; ``best - 1`` others join it. Of equal scores the earlier is the better.
    """
    ours = [name for name in committed if name.age <= saved.age]
    stays = {*ours[:last], saved}
    at_best = next((name for name in ours if name.step == best_step), None)
    if at_best is not None:
        stays.add(at_best)
    scored = [(score, name) for name in ours if name.step != best_step and (score := score_of(name)) is not None]
    scored.sort(key=lambda entry: (-entry[0], entry[1].step))
    others = best - 1 if best_step is not None else best
    return stays | {name for _, name in scored[:others]}


def leftovers(history: History, saved: Name) -> list[Name]:
    """Of writers that died: without a commit record, or ruled out, and none of a newer attempt's."""
    return [n for n in (*history.begun, *history.stale) if n.attempt <= saved.attempt and n.text != saved.text]
