"""A worker group that outlives its experiments: one Ray Train run whose ranks stay up and serve a mailbox.

Process start, imports, process group and warm data tasks are paid once; the next experiment begins in a fraction of a
second. A rank that dies is brought back by Ray Train, and the group goes on from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, Result, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vitray.environment import environment
from vitray.experiment import Experiment
from vitray.train.elastic import GroupPolicy, TellMailbox
from vitray.train.failures import group_ended, lost_workers
from vitray.train.interfaces import GroupTorchConfig
from vitray.train.mailbox import Mailbox
from vitray.train.messages import Ended, Note
from vitray.train.places import free_place, free_places, new_name
from vitray.train.report import OnProgress, OnReport, Report
from vitray.train.resources import GroupPlan
from vitray.train.serve import ServeConfig, serve

_POLL_S = 0.5
MAILBOX_CALLS = 10_000  # at once: each rank waits in two, and one that is not admitted waits for theirs to end
_CLOSE_S = 20.0
_LOOK_S, _LOOKS_A_S = 0.25, 400.0  # of Ray Train's controller at its ranks: between them, and how many of them a second


class WorkerGroup:
    """Ranks that serve one experiment after another.

    Args:
        plan: resources (:func:`vitray.train.resources.plan_groups`).
        max_restarts: times in a row that lost workers are replaced without a report in between.
    """

    def __init__(self, plan: GroupPlan, *, max_restarts: int = 3) -> None:
        self.plan = plan
        # Here, with its driver and Ray Train's controller: another node may be taken away, and a soft wish is not
        # always granted. By a strategy of its own, since inside a Tune trial an actor would else be counted against
        # the trial's placement group.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_concurrency=MAILBOX_CALLS, scheduling_strategy=here)(Mailbox)
        self._name = new_name()
        self._mailbox = actor.options(name=self._name).remote(max_restarts)
        self._scratch = Path(tempfile.mkdtemp(prefix="vitray-group-"))  # Ray Train's own bookkeeping; ours is in runs/
        self._error: BaseException | None = None
        self._asked: Any = None  # the mailbox, what comes next
        self._thread = threading.Thread(target=self._serve, daemon=True, name="vitray-worker-group")
        self._thread.start()

    def start(
        self,
        experiment: Experiment,
        run_dir: Path,
        asks_at: frozenset[int] | None = None,
        known_epoch: int | None = None,
    ) -> None:
        """Offer a resolved experiment to the ranks. The one before must have ended.

        ``asks_at``: epochs whose reports want a :meth:`decide`; by default all. Ranks do not wait for the others to be
        taken, and hear of a stop at their next report. ``known_epoch``: see :func:`vitray.train.loop.fit`.
        """
        ray.get(self._mailbox.submit.remote(experiment, str(run_dir), asks_at, known_epoch))

    def next(
        self, on_progress: OnProgress | None = None, on_note: Callable[[Note], None] | None = None
    ) -> Report | Ended:
        """Wait for the next report, or for the end. A report wants a :meth:`decide`, unless :meth:`start` said not.

        Raises:
            LostWorkersError: the group itself has ended.
        """
        shown: Any = None
        while True:
            alive = self._thread.is_alive()
            said = self._hear()
            if isinstance(said, Note):
                if on_note is not None:
                    on_note(said)
            elif said is not None:
                return said
            else:
                free_places()  # of groups that died, for which this one may be waiting
                if not alive:
                    raise group_ended(self._error)
            if on_progress is not None and (latest := ray.get(self._mailbox.latest_progress.remote())) != shown:
                shown = latest
                on_progress(*latest)

    def _hear(self) -> Report | Note | Ended | None:
        """What the mailbox hands out next. A wait that Ctrl-C broke off is taken up again: its answer is on the way."""
        if self._asked is None:
            self._asked = self._mailbox.next.remote(_POLL_S)
        try:
            said: Report | Note | Ended | None = ray.get(self._asked)
        except ray.exceptions.RayActorError as error:
            raise group_ended(error) from None
        self._asked = None
        return said

    def stop(self, on_report: OnReport) -> int | None:
        """Ask the ranks to save at the next step and to end what they run; returns the step that is saved.

        None where nothing was saved, or the ranks did not come to the end of a step in time; closing the group then
        costs what came since the newest checkpoint. Reports that were on their way are handed over.
        """
        until = time.monotonic() + max(ray.get(self._mailbox.stop.remote()), _grace_s())
        while time.monotonic() < until and self._thread.is_alive():
            said = self._hear()
            if isinstance(said, Ended):
                return said.saved_step
            if isinstance(said, Report):
                on_report(said)
        return None

    def decide(self, go_on: bool) -> None:
        """Answer the last report: go on, or stop there."""
        ray.get(self._mailbox.decide.remote(go_on))

    def run(
        self,
        experiment: Experiment,
        run_dir: Path,
        on_report: OnReport,
        on_progress: OnProgress | None = None,
        on_note: Callable[[Note], None] | None = None,
    ) -> None:
        """Train an experiment to its end, or until ``on_report`` returns False.

        Raises:
            VitrayError: what made the experiment fail.
        """
        self.start(experiment, run_dir)
        while isinstance(said := self.next(on_progress, on_note), Report):
            self.decide(on_report(said))
        if said.error is not None:
            raise said.error

    def close(self) -> None:
        """Send the ranks home and remove what the group left on disk."""
        with contextlib.suppress(ray.exceptions.RayActorError):  # a dead one has told its ranks by that
            ray.get(self._mailbox.close.remote())
        self._thread.join(_CLOSE_S)
        ray.kill(self._mailbox)
        free_place(self._name)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _serve(self) -> None:
        config = ServeConfig(self._mailbox, self._name, self.plan)
        plan = self.plan
        trainer = _Trainer(
            serve,
            train_loop_config={"config": config},
            scaling_config=ScalingConfig(
                num_workers=plan.workers, use_gpu=plan.use_gpu, resources_per_worker=dict(plan.per_rank)
            ),
            torch_config=GroupTorchConfig(backend="nccl" if plan.use_gpu else "gloo"),
            run_config=RunConfig(
                name="group",
                storage_path=str(self._scratch),
                failure_config=FailureConfig(max_failures=-1),  # the mailbox counts, by experiment
                callbacks=[_TellOfLosses(self._mailbox), TellMailbox(self._mailbox)],
            ),
        )
        trainer.policy = GroupPolicy(trainer.scaling_config, plan, self._mailbox)
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


def _grace_s() -> float:
    """Seconds that a job which is stopped has for its checkpoint, less those for its end; 0 outside of a job."""
    try:
        return float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "0")) - _CLOSE_S
    except ValueError:
        return 0.0


class _Trainer(TorchTrainer):
    """Ray Train's own, with our policy."""

    policy: GroupPolicy

    def _initialize_and_run_controller(self, **controller: Any) -> Result:
        return super()._initialize_and_run_controller(**{**controller, "scaling_policy": self.policy})


class _TellOfLosses(UserCallback):
    """Runs in Ray Train's controller, which alone sees a rank die."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if not ray.get(self._mailbox.workers_lost.remote(lost_workers(worker_exceptions))):
            time.sleep(1.0)  # a group that cannot start must not spin
