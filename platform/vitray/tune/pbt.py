"""Population based training (Jaderberg et al. 2017): the worst go on from the best's weights, with other values.

Synchronous: every ``search.perturb_epochs`` the members wait for each other. Who takes over whose weights, and with
what values, follows from the seed and the members' reports at that epoch alone, so that it comes out the same after a
restart, and metrics never go back in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ray.tune.experiment import Trial

from vitray.data.rng import key
from vitray.errors import VitrayError
from vitray.search_config import SearchConfig
from vitray.train.adopt import adopt
from vitray.train.checkpoint_place import place_of
from vitray.tune.compared import Compared
from vitray.tune.explore import explore
from vitray.tune.keys import Point
from vitray.tune.record import TrialRecord
from vitray.tune.space import Space
from vitray.tune.state import trial_folder


@dataclass(frozen=True)
class Exploit:
    """``receiver`` goes on from the weights of ``donor`` (indices of trials) with the values of ``point``."""

    receiver: int
    donor: int
    point: Point


def exploits(members: Sequence[TrialRecord], epoch: int, space: Space, search: SearchConfig) -> list[Exploit]:
    """What becomes of the members after an epoch at which they are compared.

    Members without a score of that epoch (they failed before) take no part. The best and the worst quantile are at
    least one member each, and never the same.
    """
    sign = 1 if search.mode == "max" else -1
    scores = {m.index: sign * s for m in members if (s := m.score_at(epoch, search.metric)) is not None}
    order = sorted(scores, key=lambda index: (-scores[index], index))
    count = max(1, int(len(order) * search.quantile)) if len(order) > 1 else 0
    points = {m.index: _point_at(m, epoch) for m in members}
    found = []
    for receiver in order[len(order) - count :]:
        generator = np.random.Generator(np.random.Philox(key=key("pbt", search.seed, epoch, receiver)))
        donor = order[int(generator.integers(count))]
        found.append(Exploit(receiver, donor, explore(points[donor], space, generator)))
    return found


def _point_at(member: TrialRecord, epoch: int) -> Point:
    """The values with which a member came to the epoch, whatever was decided there."""
    before = [change["point"] for change in member.changes if change["epoch"] < epoch]
    return before[-1] if before else member.begun_with


class Population(Compared):
    """The scheduler of a population: trials wait for each other, then all go on."""

    def peers(self, record: TrialRecord) -> list[TrialRecord] | None:
        return None if self._conductor.more_to_come else self._conductor.searching

    def compare(self, peers: Sequence[TrialRecord], epoch: int, waiting: dict[int, Trial]) -> set[int]:
        conductor = self._conductor
        for exploit in exploits(peers, epoch, conductor.sweep.plan.space, conductor.search):
            receiver = conductor.ledger.records[exploit.receiver]
            decided = any(change["epoch"] == epoch for change in receiver.changes)  # by a driver that died
            if exploit.receiver not in waiting or decided:
                continue  # weights are adopted before it is written down that they are
            if self._adopt(conductor.ledger.records[exploit.donor], receiver, epoch):
                conductor.changed(exploit.receiver, epoch, exploit.donor, exploit.point)
        return set()

    def _adopt(self, donor: TrialRecord, receiver: TrialRecord, epoch: int) -> bool:
        root = self._conductor.sweep.folder
        source, target = (place_of(trial_folder(root, record)) for record in (donor, receiver))
        try:
            adopt(source, target, step=next(int(r["step"]) for r in donor.reports if r["epoch"] == epoch))
        except (VitrayError, OSError) as error:
            self._conductor.display.stage(f"{receiver.name} keeps its weights: {error}")
            return False
        return True
