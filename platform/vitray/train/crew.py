"""The part of a worker group that can die and be made anew: a mailbox, and one Ray Train run whose ranks serve it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.train import FailureConfig, Result, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vitray.environment import environment
from vitray.train.elastic import GroupPolicy, TellMailbox
from vitray.train.failures import lost_workers
from vitray.train.interfaces import GroupTorchConfig
from vitray.train.mailbox import Mailbox
from vitray.train.messages import Ended, Note
from vitray.train.places import free_place, new_name
from vitray.train.report import Report
from vitray.train.resources import GroupPlan
from vitray.train.scratch import Scratch
from vitray.train.serve import ServeConfig

MAILBOX_CALLS = 10_000  # at once: each rank waits in two, and one that is not admitted waits for theirs to end
_CLOSE_S, _KILL_S = 20.0, 10.0
_LOOK_S, _LOOKS_A_S = 0.25, 400.0  # of Ray Train's controller at its ranks: between them, and how many of them a second
_CONTROLLER = "Ray Train's controller"
# Of a collective. One rank may wait for room on a disk, or for its driver, while the others are in the next collective,
# and no wait is an error. Ranks that hang are found by their pulses (train/hanging.py), long before gloo's half hour.
_COLLECTIVE_S = 30 * 86_400
_VISIT_S, _AWAY_S = 5.0, 300.0  # between looks at whether the controller still works; after so long it does not


class CrewLostError(Exception):
    """``who`` is gone, the mailbox or Ray Train's controller, and the ranks with it. ``cause``: what is known of it."""

    def __init__(self, who: str, cause: BaseException | None) -> None:
        super().__init__(who)
        self.who, self.cause = who, cause


class Crew:
    """Ranks and their mailbox, until one of what holds them together dies.

    Args:
        plan: resources (:func:`vitray.train.resources.plan_groups`).
        max_restarts: times in a row that lost ranks are replaced without getting on: a report, or a newer checkpoint.
        serve: what a rank does all its life (:func:`vitray.train.serve.serve`).
    """

    def __init__(self, plan: GroupPlan, max_restarts: int, serve: Callable[[dict[str, Any]], None]) -> None:
        self._plan, self._serve_jobs = plan, serve
        # Here, with its driver and Ray Train's controller: another node may be taken away, and a soft wish is not
        # always granted. By a strategy of its own, since inside a Tune trial an actor would else be counted against
        # the trial's placement group.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_concurrency=MAILBOX_CALLS, scheduling_strategy=here)(Mailbox)
        self._name = new_name()
        self._mailbox = actor.options(name=self._name).remote(max_restarts)
        self._scratch = Scratch()  # for Ray Train's own bookkeeping; ours is in runs/
        self._error: BaseException | None = None
        self._asked: Any = None  # the mailbox, what comes next
        self._trainer: _Trainer | None = None
        self._visits, self._looked, self._away_s = -1, time.monotonic(), 0.0
        self._thread = threading.Thread(target=self._serve, daemon=True, name="vitray-worker-group")
        self._thread.start()

    def tell(self, method: str, *said: Any) -> Any:
        """Call the mailbox.

        Raises:
            CrewLostError: it is dead, or the controller is.
        """
        if not self._thread.is_alive():
            raise CrewLostError(_CONTROLLER, self._error)
        try:
            return ray.get(getattr(self._mailbox, method).remote(*said))
        except ray.exceptions.RayActorError as error:
            raise CrewLostError("the mailbox", error) from error

    def hear(self, timeout_s: float) -> Report | Note | Ended | None:
        """What the mailbox hands out next; None when nothing came in time. A wait that Ctrl-C broke off is taken up
        again: its answer is on the way.

        Raises:
            CrewLostError: the mailbox is dead; or the controller is, and there is nothing more to hand out.
        """
        alive = self._thread.is_alive()
        if self._asked is None:
            self._asked = self._mailbox.next.remote(timeout_s)
        try:
            said: Report | Note | Ended | None = ray.get(self._asked)
        except ray.exceptions.RayActorError as error:
            raise CrewLostError("the mailbox", error) from error
        self._asked = None
        if said is None and (not alive or self._stands_still()):
            raise CrewLostError(_CONTROLLER, self._error)
        return said

    def close(self) -> None:
        """Send the ranks home, and remove what is left."""
        with contextlib.suppress(ray.exceptions.RayActorError):  # a dead one has told its ranks by that
            ray.get(self._mailbox.close.remote())
        self._thread.join(_CLOSE_S)
        self.end()

    def end(self) -> None:
        """Kill whatever is left, and give its place back."""
        ray.kill(self._mailbox)
        if self._thread.is_alive() and self._trainer is not None and self._trainer.controller is not None:
            ray.kill(self._trainer.controller)
        self._thread.join(_KILL_S)
        free_place(self._name)
        self._scratch.remove()

    def _stands_still(self) -> bool:
        """Whether the controller has done nothing for minutes: it is stopped, or waits for a rank that does not come
        up. Only time counts in which this process looked."""
        now = time.monotonic()
        if (since := now - self._looked) < _VISIT_S:
            return False
        self._looked = now
        visits = self.tell("visits")
        self._away_s = 0.0 if visits != self._visits else self._away_s + min(since, 2 * _VISIT_S)
        self._visits = visits
        if self._away_s < _AWAY_S:
            return False
        self._error = TimeoutError(f"{_CONTROLLER} has done nothing for {self._away_s:.0f} s")
        return True

    def _serve(self) -> None:
        plan = self._plan
        self._trainer = trainer = _Trainer(
            self._serve_jobs,
            train_loop_config={"config": ServeConfig(self._mailbox, plan)},
            scaling_config=ScalingConfig(
                num_workers=plan.workers, use_gpu=plan.use_gpu, resources_per_worker=dict(plan.per_rank)
            ),
            torch_config=GroupTorchConfig(backend="nccl" if plan.use_gpu else "gloo", timeout_s=_COLLECTIVE_S),
            run_config=RunConfig(
                name="group",
                storage_path=str(self._scratch.path),
                failure_config=FailureConfig(max_failures=-1),  # the mailbox counts, by experiment
                callbacks=[_TellOfLosses(self._mailbox), TellMailbox(self._mailbox, self._name)],
            ),
        )
        trainer.policy = GroupPolicy(trainer.scaling_config, plan, self._mailbox, self._name)
        try:
            # A lost rank is noticed within a quarter of a second (of hundreds, later: each look is a call); ours is the
            # policy that looks for preemption notices; and what cannot be placed for half a minute is thought over.
            with environment(
                RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=str(max(_LOOK_S, plan.most / _LOOKS_A_S)),
                RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
                RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="30",
            ):
                trainer.fit()
        except BaseException as error:
            self._error = error


class _Trainer(TorchTrainer):
    """Ray Train's own, with our policy, and a controller that can be killed."""

    policy: GroupPolicy
    controller: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        """Without two that start a Python process each: one frees placement groups, asks the dashboard and outlives its
        run; one, with every start of ranks, hands out the datasets of a trainer, which has none here."""
        callbacks: list[Any] = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, (PlacementGroupCleanerCallback, DatasetsCallback))]

    def _initialize_and_run_controller(self, **controller: Any) -> Result:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        variables = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}
        actor = ray.remote(num_cpus=0, scheduling_strategy=here, runtime_env={"env_vars": variables})(TrainController)
        serve = _ByValue(controller["train_fn_ref"].get())
        self.controller = actor.remote(**{**controller, "train_fn_ref": serve, "scaling_policy": self.policy})
        ray.get(self.controller.run.remote())
        result: Result = ray.get(self.controller.get_result.remote())
        return result


class _ByValue:
    """What ranks do, in each call that has them do it.

    Ray Train puts it into the object store, of which a node that crashed has a copy too. Until the head believes that
    it is dead it is asked for it, and the rank that asked waits ten seconds (RAY_object_manager_pull_timeout_ms).
    """

    def __init__(self, serve: Callable[[], None]) -> None:
        self._serve = serve

    def get(self) -> Callable[[], None]:
        return self._serve


class _TellOfLosses(UserCallback):
    """Runs in Ray Train's controller, which alone sees a rank die."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if not ray.get(self._mailbox.workers_lost.remote(lost_workers(worker_exceptions))):
            time.sleep(1.0)  # a group that cannot start must not spin
