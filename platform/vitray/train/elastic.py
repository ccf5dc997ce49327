"""How many ranks a group has, and when that changes: decided in Ray Train's controller.

Ray's own elastic policy looks at the cluster once a minute, counts nodes that are about to go, and ends the ranks
without a word. Here ranks are asked to save and leave first, so that nothing is done twice:

- a notice that a node goes (a spot machine, a pod, ``ray drain-node``): at once, whatever the group's size may be;
- room for more ranks, where the group may have more: when it is certain, for a placement group holds it.

Ranks that are lost without a notice are replaced by as many as the nodes that still answer can hold.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.scaling_policy import (
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
from ray.train.v2.api.config import ScalingConfig
from ray.util.placement_group import PlacementGroup, remove_placement_group

from vitray.train.nodes import Node, count_again, nodes_now, ranks_that_fit, reserved_by_others, without_silent
from vitray.train.places import name_places, named_place
from vitray.train.resources import GroupPlan

_LOOK_S = 1.0  # between looks at the cluster
_SETTLE_S = 5.0  # room must have been there for so long: nodes come in twos and threes
_YOUNG_S = 15.0  # ranks that have just come up are left in peace
_HOLD_S, _AGAIN_S = 10.0, 60.0  # to get hold of room for more ranks; after a failure, to the next attempt
_WAIT_S, _SAY_EVERY_S = 0.5, 30.0  # between looks while too few ranks fit, and between words about it


class GroupPolicy(ScalingPolicy):
    """Ray Train asks it, before ranks are started and after every look at those that run."""

    def __init__(self, scaling_config: ScalingConfig, plan: GroupPlan, mailbox: Any, mailbox_name: str) -> None:
        super().__init__(scaling_config)
        self._plan, self._mailbox, self._mailbox_name = plan, mailbox, mailbox_name
        self._young_s, self._settle_s = _YOUNG_S, _SETTLE_S  # of the process that asks for the group
        self._started_once = False
        self._attempt: int | None = None  # ranks that were to start, and have not yet
        self._avoid: list[str] = []  # nodes that are going, or do not answer
        self._looked = self._waits_since = self._said = 0.0
        self._vacating = False
        self._room: tuple[int, float] = (0, 0.0)  # ranks that would fit, and since when
        self._held: tuple[PlacementGroup, float] | None = None
        self._not_before = 0.0
        self._counting: list[ray.ObjectRef] = []

    # What Ray asks

    def _get_num_workers_for_resource_request(self) -> int:
        return self._plan.most  # for the autoscaler

    def on_controller_start_worker_group(self, **_: Any) -> dict[str, str] | None:
        """Where ranks must not be placed, as a label selector."""
        return {"ray.io/node-id": f"!in({','.join(self._avoid)})"} if self._avoid else None

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        self._maybe_send_resource_request()
        self._let_go()
        self._vacating = False
        if not self._started_once and self._attempt is None and not self._plan.elastic:
            return self._start(self._plan.most)
        nodes = without_silent(nodes_now())
        fitting = self._fitting(nodes)
        if fitting < self._plan.ranks or (self._attempt is not None and not self._plan.elastic):
            self._say_waiting(fitting)
        if self._attempt is not None and fitting >= self._attempt:
            self._counting = count_again(nodes, self._counting)
        if not self._plan.elastic:
            return self._start(self._plan.most, nodes)  # Ray waits for their place
        if self._attempt is not None and self._attempt > self._plan.ranks:
            fitting = min(fitting, self._attempt - 1)  # they could not be placed: somebody's tasks or actors are there
        if fitting < self._plan.ranks:
            time.sleep(_WAIT_S)  # Ray asks again at once
            return NoopDecision()
        return self._start(min(fitting, self._plan.most), nodes)

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        self._maybe_send_resource_request()
        self._started_once, self._attempt, self._waits_since = True, None, 0.0
        now = time.monotonic()
        due = now - self._looked >= _LOOK_S
        if due:
            self._looked = now
            if ray.get(self._mailbox.hangs.remote()):
                return self._replace(worker_group_state)
        if self._vacating:
            return self._when_vacated()
        if not due:
            return NoopDecision()
        nodes = nodes_now()
        going = {node.id for node in nodes if node.going}
        if any(worker.metadata.node_id in going for worker in worker_group_state.workers):
            self._vacating = True
        elif self._plan.elastic:
            self._vacating = self._may_grow(nodes, worker_group_state, now)
        return self._when_vacated() if self._vacating else NoopDecision()

    # How it is answered

    def _when_vacated(self) -> ScalingDecision:
        try:
            if not ray.get(self._mailbox.vacate.remote()):
                return NoopDecision()
        except RuntimeError:  # the group closes
            return NoopDecision()
        self._let_go()
        nodes = nodes_now()
        fitting = min(self._fitting(nodes), self._plan.most)
        self._vacating = False
        if fitting < self._plan.ranks:
            self._say_waiting(fitting)
        # Also where too few fit: the ranks that are there go, and these wait for their place.
        return self._start(max(fitting, self._plan.ranks), nodes)

    def _replace(self, group: WorkerGroupState) -> ScalingDecision:
        """Others in place of the ranks that hang; these are killed, since Ray Train would first ask them to end."""
        for worker in group.workers:
            ray.kill(worker.actor)
        self._let_go()
        self._vacating = False
        nodes = without_silent(nodes_now())
        return self._start(max(self._plan.ranks, min(self._fitting(nodes), self._plan.most)), nodes)

    def _start(self, ranks: int, nodes: list[Node] | None = None) -> ResizeDecision:
        self._attempt = ranks
        self._avoid = [node.id for node in nodes or [] if node.going]
        self._room = (0, 0.0)
        return ResizeDecision(ranks, dict(self._plan.per_rank))

    def _fitting(self, nodes: list[Node]) -> int:
        return sum(ranks_that_fit(nodes, reserved_by_others(self._mailbox_name), self._plan.per_rank).values())

    def _may_grow(self, nodes: list[Node], group: WorkerGroupState, now: float) -> bool:
        """Whether more ranks than there are have a place, and it is held for them."""
        have = group.num_workers
        if have >= self._plan.most or now - group.start_time < self._young_s or now < self._not_before:
            return False
        if self._held is not None:
            return self._got_hold(now)
        fitting = min(self._fitting(nodes), self._plan.most)
        if fitting <= have:
            self._room = (0, 0.0)
        elif fitting != self._room[0]:
            self._room = (fitting, now)
        elif now - self._room[1] >= self._settle_s:
            bundles = [dict(self._plan.per_rank)] * (fitting - have)
            avoid = ",".join(node.id for node in nodes if node.going)
            selector = [{"ray.io/node-id": f"!in({avoid})"}] * len(bundles) if avoid else None
            self._held = named_place(self._mailbox_name, bundles, bundle_label_selector=selector), now
        return False

    def _got_hold(self, now: float) -> bool:
        assert self._held is not None
        place, since = self._held
        if ray.util.placement_group_table(place)["state"] == "CREATED":
            return True
        if now - since > _HOLD_S:
            self._let_go()
            self._not_before, self._room = now + _AGAIN_S, (0, 0.0)
        return False

    def _let_go(self) -> None:
        if self._held is not None:
            remove_placement_group(self._held[0])
            self._held = None

    def _say_waiting(self, fitting: int) -> None:
        now = time.monotonic()
        self._waits_since = self._waits_since or now
        closed = False
        if now - self._said >= _SAY_EVERY_S or self._waits_since == now:
            self._said = now
            closed = not ray.get(self._mailbox.note.remote(self._waiting(fitting, now - self._waits_since)))
        if closed:
            raise RuntimeError("the group closes")

    def _waiting(self, fitting: int, seconds: float) -> str:
        least, per_rank = self._plan.ranks, self._plan.per_rank
        each = " and ".join(f"{amount:g} {name}" for name, amount in per_rank.items())
        since = f", for {seconds:.0f} s" if seconds >= 1 else ""
        if fitting >= least:
            return f"the ranks did not come up, and are started again{since}"
        return (
            f"waiting for nodes{since}: {least} rank{'s need' if least > 1 else ' needs'} {each}"
            f"{' each' if least > 1 else ''}, and there is room for {fitting}"
        )


class TellMailbox(WorkerGroupCallback):
    """Runs in Ray Train's controller, which alone knows which ranks come up, and on which nodes."""

    def __init__(self, mailbox: Any, mailbox_name: str) -> None:
        self._mailbox, self._mailbox_name = mailbox, mailbox_name
        self._nodes: dict[str, str] | None = None  # of the ranks before

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        name_places(self._mailbox_name)
        ray.get(self._mailbox.starting.remote())

    def after_worker_group_start(self, worker_group: Any) -> None:
        workers = worker_group.get_workers()
        now = {worker.metadata.node_id: worker.metadata.node_ip for worker in workers}
        before, self._nodes = now if self._nodes is None else self._nodes, now
        ray.get(self._mailbox.started.remote(what_changed(before, now), len(workers)))


def what_changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Nodes by id and address that had ranks, and that have some now; in a few words."""
    parts = [
        f"node{'s' if len(nodes) > 1 else ''} {', '.join(nodes[:3])}{', ...' if len(nodes) > 3 else ''} {what}"
        for nodes, what in (
            (sorted(before[node] for node in before.keys() - now.keys()), "left"),
            (sorted(now[node] for node in now.keys() - before.keys()), "joined"),
        )
        if nodes
    ]
    return ", ".join(parts)
