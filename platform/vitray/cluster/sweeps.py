"""From a config to a registered winner: what `vitray sweep`, the quickstart and the job scripts have in common.

Everything that can be refused is refused here, before a cluster starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vitray.cluster.address import check_answers, named_address
from vitray.cluster.changes import config_changes, overridden
from vitray.cluster.job_memory import note_run, run_of
from vitray.cluster.launch import Prepared, run_key, tracking
from vitray.cluster.local import Cluster, connect
from vitray.cluster.loss import told_of_loss
from vitray.cluster.machine import Machine
from vitray.cluster.weights import check_trials
from vitray.errors import ConfigError, DataError, InterruptedRunError, TrackingError, TrainingError
from vitray.experiment import Experiment
from vitray.files import when_there_is_room
from vitray.home import Home
from vitray.tracking.away import when_it_answers
from vitray.tracking.tracker import Tracker
from vitray.train.checkpoint_place import check_place
from vitray.train.dataset_input import as_input
from vitray.train.resources import plan_groups
from vitray.train.run import new_name
from vitray.tune.ledger import Ledger
from vitray.tune.record import busy_seconds
from vitray.tune.state import Sweep, is_sweep, load_sweep, write_state

if TYPE_CHECKING:  # torch, Ray and MLflow take seconds to import: they come in when nothing is left to refuse
    from vitray.tune.conductor import Conductor
    from vitray.tune.plan import SweepPlan
    from vitray.tune.promote import Winner
    from vitray.tune.proposer import Earlier
    from vitray.tune.record import SweepDisplay, TrialRecord

log = logging.getLogger("vitray")
_PROMOTION_BYTES = 2**20  # figures and scores, beside what is on its way to MLflow
Display = Callable[["SweepPlan"], "SweepDisplay"]


@dataclass(frozen=True)
class SweepResult:
    """``front``: for nsga2, the trials that no other beats in every objective. ``seconds``: of all its runs."""

    name: str
    trials: Sequence[TrialRecord]
    winner: Winner
    front: Sequence[TrialRecord]
    seconds: float


def plan(prepared: Prepared, *, address: str | None = None, home: Home | None = None) -> SweepPlan:
    """What a sweep would do on this machine, or on the cluster at ``address``."""
    _check_splits(prepared)
    if named_address(address) is None:
        made = _plan(prepared, Machine.here())
    else:
        with connect(address) as cluster:
            made = _plan(prepared, cluster)
    if made.search.earlier:
        _earlier(prepared, made, home or Home.find())
    return made


def sweep(
    prepared: Prepared, home: Home, display: Display, *, address: str | None = None, force: bool = False
) -> SweepResult:
    """Search, promote the winner, register it. ``force``: also where the present champion is better.

    Raises:
        ConfigError: the name is taken, or the space is at fault.
        ResourceError: the cluster cannot hold one trial.
        TrainingError: no trial came to a result, or too many ended in an error of the code.
        InterruptedRunError: Ctrl-C; says how to go on.
    """
    wanted = prepared.experiment.name
    name = new_name(
        home,
        wanted or prepared.stem,
        exact=wanted is not None,
        remedy=f"go on with it: vitray sweep resume {wanted}; or choose another with name=...",
    )
    return _run(prepared, home, display, name, address, force)


def resume(
    name: str,
    home: Home,
    display: Display,
    *,
    config: str | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    force: bool = False,
) -> SweepResult:
    """Go on with a sweep that was interrupted or killed: what has ended stays, what ran goes on from its checkpoints.

    ``config`` and ``overrides``: as it was begun with; its budget, its repeats and how many run at once may differ.

    Raises:
        ConfigError: there is no such sweep, it is done, another process runs it, or the config or the data differ.
        Otherwise as :func:`sweep`.
    """
    name = run_of(home, name) or name  # it may be the id of a job
    saved = load_sweep(home.runs, name)
    if saved.status == "running":
        raise ConfigError("is running in another process", where=name, remedy="wait for it, or stop it with Ctrl-C")
    if saved.status == "done" and (saved.facts.get("model") or not force):
        what = saved.facts.get("model") or "nothing was registered, since the champion is better"
        remedy = "vitray sweep report " + name if saved.facts.get("model") else "register it with --force"
        raise ConfigError(f"is done: {what}", where=name, remedy=remedy)
    asked = Experiment.load(config, overrides) if config else overridden(saved.experiment, overrides)
    prepared = Prepared.of(asked.with_values({"name": saved.experiment.name}), saved.name)
    if prepared.experiment.search != saved.experiment.search and any(r.kind != "search" for r in saved.records):
        raise ConfigError(
            "the search has ended, and its finalists are repeated or its winner is retrained",
            where=name,
            remedy=f"resume without changes, or search further in a new sweep: search.from={name}",
        )
    if changes := config_changes(saved.experiment, prepared.experiment):
        raise ConfigError(
            f"the config is not the one that the sweep was begun with: {'; '.join(changes[:4])}",
            where=name,
            remedy="resume without these, or start a new sweep that begins with this one's trials: search.from=" + name,
        )
    if prepared.data.fingerprint != saved.fingerprint:
        raise ConfigError(
            f"the data have changed since the sweep began: their fingerprint is {prepared.data.fingerprint[:12]}..., "
            f"not {saved.fingerprint[:12]}...",
            where=prepared.data.store.shown,
            remedy="bring the earlier data back, or start a new sweep",
        )
    return _run(prepared, home, display, name, address, force)


def _run(prepared: Prepared, home: Home, display: Display, name: str, address: str | None, force: bool) -> SweepResult:
    start = time.perf_counter()
    _check_splits(prepared)
    check_place(prepared.experiment.train.checkpoints)
    if (target := named_address(address)) is not None:
        check_answers(target)
    elif not is_sweep(home.runs / name):  # what begins now is refused before a cluster starts, if it is impossible
        plan(prepared, home=home)
    else:
        _plan(prepared, Machine.here())
    written = prepared.experiment.tracking
    with tracking(home, written.experiment, model=written.model_name) as tracker, connect(address) as cluster:
        from vitray.tune.earlier import kept
        from vitray.tune.pareto import front_of
        from vitray.tune.proposer import NOTHING

        made = _plan(prepared, cluster)
        data = prepared.data
        sweep = Sweep(name, run_key(home, name), home.runs / name, made, data.fingerprint, as_input(data))
        earlier = kept(sweep.folder, lambda: _earlier(prepared, made, home)) if made.search.earlier else NOTHING
        with Ledger(sweep.folder) as ledger:
            # First of all, so that whatever happens from here on can be resumed.
            sweep.run.write_config()
            note_run(home, name)
            write_state(sweep, "running")
            sweep.run.begin(tracker)
            start -= busy_seconds(ledger.records.values(), time.time())  # what earlier drivers had
            facts: dict[str, Any] = {}
            try:
                winner = _search_and_promote(
                    sweep, ledger, earlier, prepared, tracker, display, home, cluster, force, facts
                )
                records = list(ledger.records.values())
                objectives = made.search.objectives
                front = [r for r, _ in front_of(records, sweep.experiment_of, objectives)] if objectives else []
                facts |= _facts(winner, front) | {"seconds": time.perf_counter() - start}
                write_state(sweep, "running", **facts)
                _log_report(sweep, home, tracker)
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt | InterruptedRunError)
                facts["seconds"] = time.perf_counter() - start
                write_state(sweep, "interrupted" if interrupted else "failed", **facts)
                tracker.end_run(sweep.key, "KILLED" if interrupted else "FAILED")
                if isinstance(error, KeyboardInterrupt):
                    raise _interrupted(name, ledger.records.values()) from None
                if isinstance(error, TrackingError):  # what was trained is safe: only the registry is missing
                    error.remedy = f"{error.remedy or 'mend it'}; then go on with: vitray sweep resume {name}"
                raise
            tags = {"vitray.best": winner.trial.name, "vitray.model": winner.uri or "none: the champion is better"}
            tracker.set_tags(sweep.key, tags)
            tracker.end_run(sweep.key, "FINISHED")
            write_state(sweep, "done", **facts)  # last: what is done is not resumed
    return SweepResult(name, records, winner, front, seconds=time.perf_counter() - start)


def _search_and_promote(
    sweep: Sweep,
    ledger: Ledger,
    earlier: Earlier,
    prepared: Prepared,
    tracker: Tracker,
    display: Display,
    home: Home,
    cluster: Cluster,
    force: bool,
    facts: dict[str, Any],
) -> Winner:
    from vitray.tune.choose import choose
    from vitray.tune.conductor import Conductor
    from vitray.tune.promote import promote
    from vitray.tune.proposer import make_proposer
    from vitray.tune.sweep import run_trials

    cluster_config, workers = prepared.experiment.cluster, prepared.experiment.data.workers
    # The retraining runs when all else is done, so it may have the threads of all groups.
    alone = plan_groups(cluster_config, **cluster.room, data_workers=workers)
    retraining = {"cluster.threads": alone.threads} if alone.threads != sweep.plan.groups.threads else {}
    shown = display(sweep.plan)
    shown.stage(f"sweep {sweep.name}: state in {sweep.folder}; starting the workers")  # who finds the log can resume it
    proposer = make_proposer(sweep.plan, earlier)
    conductor = Conductor(sweep, ledger, proposer, tracker, shown, retraining)
    with told_of_loss(cluster, f"vitray sweep resume {sweep.name}"):
        run_trials(conductor)
    records = conductor.records
    _check_ended(conductor)
    final = next((record for record in reversed(records) if record.kind == "final"), None)
    if final is not None and final.repeats is not None:
        best = ledger.records[final.repeats]
    else:
        best = choose(records, sweep.plan.search).best
    if final is not None and final.status == "failed":
        raise TrainingError(f"retraining the winner failed: {final.failure}", where=sweep.name)
    shown.stage(f"promoting {best.name}")

    def promoted() -> Winner:  # may begin again anywhere, as after a kill
        return promote(sweep, best, final, records, prepared.data, tracker, home.tracking_uri, force=force)

    return when_it_answers(lambda: when_there_is_room(promoted, sweep.folder, _PROMOTION_BYTES), shown.stage)


def _facts(winner: Winner, front: Sequence[TrialRecord]) -> dict[str, Any]:
    return {
        "best": winner.trial.name,
        "val_mean": winner.standing.mean,
        "val_interval": winner.standing.interval,
        "test_accuracy": winner.score.accuracy,
        "test_interval": winner.score.interval,
        "test_samples": winner.score.samples,
        "model": winner.uri,
        "alias": winner.alias,
        "front": [record.name for record in front],
    }


def _check_ended(conductor: Conductor) -> None:
    name, records = conductor.sweep.name, conductor.records
    if conductor.halted == "interrupted":
        raise _interrupted(name, records)
    if conductor.halted:
        failed = [r for r in records if r.failure_class == "code"]
        raise TrainingError(
            f"stopped, since {conductor.halted} (search.max_code_errors); {failed[-1].name}: {failed[-1].failure}",
            where=name,
            remedy=f"mend it, then go on with: vitray sweep resume {name}",
        )


def _interrupted(name: str, records: Any) -> InterruptedRunError:
    records = list(records)
    ended = sum(record.ended for record in records)
    return InterruptedRunError(
        f"interrupted, with {ended} of the {len(records)} trials begun so far at their end",
        where=name,
        remedy=f"go on with: vitray sweep resume {name}",
    )


def _plan(prepared: Prepared, room: Machine | Cluster) -> SweepPlan:
    from vitray.tune.plan import plan_sweep

    has: Mapping[str, Any] = room.room if isinstance(room, Cluster) else vars(room)
    return check_trials(plan_sweep(prepared.experiment, **has), prepared.data.classes)


def _earlier(prepared: Prepared, made: SweepPlan, home: Home) -> Earlier:
    from vitray.tune.earlier import earlier_trials

    assert made.search.earlier is not None
    return earlier_trials(home.runs, made.search.earlier, made, prepared.data.fingerprint)


def _log_report(sweep: Sweep, home: Home, tracker: Tracker) -> None:
    """The report beside the sweep's state, and with its pictures in the tracker."""
    from vitray.tune.report import SweepView, report_figures, write_report

    try:
        view = SweepView.of(replace(load_sweep(home.runs, sweep.name), status="done"))
        tracker.log_artifact(sweep.key, write_report(view))
        tracker.log_artifact(sweep.key, report_figures(view, sweep.folder / "figures"))
    except Exception as error:  # the winner is registered, and the report can be written any time
        log.warning("the report could not be written: %s; try: vitray sweep report %s", error, sweep.name)


def _check_splits(prepared: Prepared) -> None:
    for split, use in (("val", "trials are compared on"), ("test", "the winner is measured on")):
        if not prepared.data.num_samples(split):
            raise DataError(
                f"has no images in its {split} split, which {use}",
                where=prepared.data.store.shown,
                remedy="prepare it with a share for every split",
            )
