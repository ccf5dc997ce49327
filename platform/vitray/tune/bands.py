"""HyperBand (Li et al. 2018, "Hyperband"): brackets of trials, halved together at their rungs.

Its trials wait for each other, also while some of a bracket have no group yet. Tune's own HyperBand wants all trials of
a bracket alive at once and knows nothing of a restart; here who gets past a rung is a function of the reports there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from vitray.search_config import SearchConfig
from vitray.tune.compared import Compared
from vitray.tune.conductor import Conductor
from vitray.tune.record import TrialRecord
from vitray.tune.rungs import Rung, bracket_of


def beaten(members: Sequence[TrialRecord], bracket: Sequence[Rung], epoch: int, search: SearchConfig) -> set[int]:
    """Indices of the members of a bracket that do not get past its rung at ``epoch``.

    Members without a score there (they failed before, or ended) take no part and no place.
    """
    sign = 1 if search.mode == "max" else -1
    at = {m.index: sign * score for m in members if (score := m.score_at(epoch, search.metric)) is not None}
    kept = next(count for rung, count in bracket if rung > epoch)
    return set(sorted(at, key=lambda index: (-at[index], index))[kept:])


class Bands(Compared):
    """The scheduler of brackets: trials fill them in the order in which they are proposed."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__(conductor)
        self._plan = conductor.sweep.plan

    def peers(self, record: TrialRecord) -> list[TrialRecord] | None:
        first, bracket = self._bracket(record)
        members = [r for r in self._conductor.searching if first <= r.index < first + bracket[0][1]]
        return None if len(members) < bracket[0][1] and self._conductor.more_to_come else members

    def compare(self, peers: Sequence[TrialRecord], epoch: int, waiting: dict[int, Trial]) -> set[int]:
        return beaten(peers, self._bracket(peers[0])[1], epoch, self._conductor.search)

    def judge(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if int(result["epoch"]) >= self._bracket(self.record(trial))[1][-1][0]:
            return TrialScheduler.STOP
        return super().judge(tune_controller, trial, result)

    def _bracket(self, record: TrialRecord) -> tuple[int, list[Rung]]:
        return bracket_of(self._plan.brackets, record.index)
