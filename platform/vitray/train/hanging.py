"""Whether a group of ranks hangs: told from what each says of itself every few seconds.

Two signs. A rank that *says nothing*: its process is stopped, or code in it keeps the interpreter to itself. Ranks that
*stand still*: each that takes part is in something that ends soon, and none has got on for much longer than that takes.
A rank that waits for data, saves, or waits for the driver's decision stands still for as long as it has to, and others
that wait for it in a collective with it: a slow store is no hang, nor is a slow cluster.

Only time counts in which somebody looked. Where this process did not run either (a suspended laptop, a machine that
swaps), ranks are not blamed for their silence.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vitray.train.whereabouts import (
    ASKING,
    ENDING,
    EVALUATING,
    FIRST,
    IDLE,
    SAVING,
    STARTING,
    STEP,
    WAITING,
    Pulse,
)

_USUAL_STEPS = 10  # a step that takes so many times what steps take is none
_LOOK_S = 2.0  # the most that counts between two looks
_EVER = float("inf")
# By what a rank does: how many times the limit it may say nothing, and stand still. The compiler, the first use of a
# GPU and the import of a large library keep the interpreter for long; others wait for the slowest in a collective.
_PATIENCE = {
    IDLE: (3.0, _EVER),
    STARTING: (10.0, 30.0),
    FIRST: (10.0, 30.0),
    WAITING: (1.0, _EVER),
    STEP: (1.0, 1.0),
    EVALUATING: (1.0, 30.0),
    ENDING: (1.0, 30.0),
    SAVING: (3.0, _EVER),
    ASKING: (3.0, _EVER),
}


@dataclass
class _Heard:
    pulse: Pulse
    at: float
    moved_at: float


class Watch:
    """The mailbox's view of its ranks. Times are seconds of one clock, given by the caller."""

    def __init__(self) -> None:
        self._ranks: dict[int, _Heard] = {}
        self._clock = 0.0  # seconds that counted
        self._looked: float | None = None

    def begin(self, ranks: int) -> None:
        """So many new ranks come up."""
        self._ranks = {r: _Heard(Pulse(r, STARTING, 0, -1), self._clock, self._clock) for r in range(ranks)}

    def hear(self, pulse: Pulse) -> None:
        """A rank says where it is. One that is not known is of an earlier group."""
        if (known := self._ranks.get(pulse.rank)) is not None:
            moved = known.pulse.moves != pulse.moves
            self._ranks[pulse.rank] = _Heard(pulse, self._clock, self._clock if moved else known.moved_at)

    def look(self, now: float, limit_s: float, at_work: Collection[int]) -> str | None:
        """Who hangs where and for how long, in words; None while nobody does.

        To be asked every second or so. ``at_work``: ranks that have taken the job and are not through.
        """
        if self._looked is not None:
            self._clock += min(_LOOK_S, max(0.0, now - self._looked))
        self._looked = now
        return self._silent(limit_s) or self._still(limit_s, at_work)

    def _silent(self, limit_s: float) -> str | None:
        for rank, heard in self._ranks.items():
            silence = self._clock - heard.at
            if silence > limit_s * _PATIENCE[self._likely(heard.pulse)][0]:
                return f"nothing was heard of rank {rank} for {silence:.0f} s; it was {_place(heard.pulse)}"
        return None

    def _likely(self, last: Pulse) -> str:
        """What a rank does that was last heard of there: ranks make their steps together, so that one whose others are
        farther has got on since, and is in what they are in."""
        others = [heard.pulse for heard in self._ranks.values() if heard.pulse.doing not in (IDLE, STARTING)]
        farthest = max(others, key=lambda pulse: pulse.step, default=last)
        return farthest.doing if farthest.step > last.step + 1 else last.doing

    def _still(self, limit_s: float, at_work: Collection[int]) -> str | None:
        taking_part = [heard for rank, heard in self._ranks.items() if rank in at_work]
        if not taking_part:
            return None
        usual = max(heard.pulse.step_s for heard in taking_part)
        patience = max(_PATIENCE[heard.pulse.doing][1] for heard in taking_part)
        stood = self._clock - max(heard.moved_at for heard in taking_part)
        if stood <= patience * max(limit_s, _USUAL_STEPS * usual):
            return None
        # The one that the others wait for has begun fewer collectives than they have.
        fewest = min(heard.pulse.collectives for heard in taking_part)
        behind = [heard for heard in taking_part if heard.pulse.collectives == fewest]
        if len(behind) == len(taking_part) > 1:
            what = f"all {len(behind)} ranks hang"
        else:
            what = f"rank {' and '.join(str(heard.pulse.rank) for heard in behind)} hangs"
        line = f" (at {behind[0].pulse.line})" if behind[0].pulse.line else ""
        return f"{what} {_place(behind[0].pulse)} for {stood:.0f} s{line}"


def _place(pulse: Pulse) -> str:
    return f"{pulse.doing} {pulse.step}" if pulse.doing == STEP else f"{pulse.doing} (after step {pulse.step})"
