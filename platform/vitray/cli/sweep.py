"""``vitray sweep``: plan, run, resume, list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from vitray.cli.options import address_option, config_argument, overrides_argument
from vitray.cli.output import age, emit, grid, note, output_option
from vitray.cli.sweep_report import report
from vitray.masking import public

if TYPE_CHECKING:
    from vitray.cluster.launch import Prepared
    from vitray.cluster.sweeps import Display, SweepResult
    from vitray.home import Home
    from vitray.tune.record import TrialRecord
    from vitray.tune.state import SavedSweep


@click.group()
def sweep() -> None:
    """Search the Vision Transformer: patch size, depth, heads, positional encoding, and what else you name."""


sweep.add_command(report)


@sweep.command()
@config_argument
@overrides_argument
@address_option
@output_option
def plan(config: str, overrides: tuple[str, ...], address: str | None, output: str) -> None:
    """What a sweep would do, take and cost: the space and its valid share, trials at once, hours. Runs nothing."""
    from vitray.cli.sweep_plan import plan_table
    from vitray.cluster.address import named_address
    from vitray.cluster.launch import Prepared
    from vitray.cluster.sweeps import plan as plan_only
    from vitray.home import Home
    from vitray.tune.speed import speed_of

    prepared, home = Prepared.load(config, overrides), Home.find()
    made = plan_only(prepared, address=address, home=home)
    speed = speed_of(home.runs, made.experiment, made.groups, here=named_address(address) is None)
    facts = made.describe(prepared.data.num_samples("train"), speed)
    emit(facts, output, table=lambda: plan_table(facts))


_force = click.option("--force", is_flag=True, help="Register the winner as challenger where the champion is better.")


@sweep.command()
@config_argument
@overrides_argument
@address_option
@_force
@output_option
def run(config: str, overrides: tuple[str, ...], address: str | None, force: bool, output: str) -> None:
    """Run the sweep in CONFIG, retrain its winner, measure it once on the test split, and register it."""
    from vitray.cluster.launch import Prepared
    from vitray.home import Home

    prepared, home = Prepared.load(config, overrides), Home.find()
    note(f"state: {home.root}")
    result = run_shown(prepared, home, address, force=force)
    emit(summary(result, home.tracking_uri), output, table=lambda: result_table(result))


@sweep.command()
@click.argument("name")
@overrides_argument
@click.option("--config", metavar="FILE", help="Check that the sweep was begun with this config.")
@address_option
@_force
@output_option
def resume(
    name: str, overrides: tuple[str, ...], config: str | None, address: str | None, force: bool, output: str
) -> None:
    """Go on with the sweep NAME, which was interrupted or killed. A budget may be raised: search.budget.minutes=60."""
    from vitray.cluster.sweeps import resume as resume_sweep
    from vitray.home import Home

    home = Home.find()
    note(f"state: {home.root}")
    with shown() as display:
        result = resume_sweep(name, home, display, config=config, overrides=overrides, address=address, force=force)
    emit(summary(result, home.tracking_uri), output, table=lambda: result_table(result))


@sweep.command(name="list")
@output_option
def list_(output: str) -> None:
    """The sweeps of this home, newest first."""
    from vitray.home import Home
    from vitray.tune.state import list_sweeps

    home = Home.find()
    found = list_sweeps(home.runs)
    if not found:
        note(f"no sweeps in {home.runs}; start one with: vitray sweep run CONFIG")
    headers = ("sweep", "state", "trials", "best", "test accuracy", "model", "age")
    emit([s.describe() for s in found], output, table=lambda: grid([_row(s) for s in found], headers) if found else "")
    for saved in found:
        if saved.status in ("interrupted", "failed"):
            note(f"{saved.name} can go on: vitray sweep resume {saved.name}")


@contextmanager
def shown() -> Iterator[Display]:
    """The live table on stderr, for whoever runs a sweep."""
    from vitray.cli.live_sweep import SweepTable
    from vitray.tune.plan import SweepPlan

    with ExitStack() as stack:

        def display(plan: SweepPlan) -> SweepTable:
            facts = plan.describe()
            note(f"{facts['trials']} trials, {facts['trials_at_once']} at once, each {facts['resources_per_trial']}")
            if plan.weights:
                note(f"begins with {plan.weights}")
            return stack.enter_context(SweepTable(plan))

        yield display


def run_shown(prepared: Prepared, home: Home, address: str | None, *, force: bool = False) -> SweepResult:
    """Run a sweep with its live table on stderr."""
    from vitray.cluster.sweeps import sweep as run_sweep

    with shown() as display:
        return run_sweep(prepared, home, display, address=address, force=force)


def summary(result: SweepResult, tracking_uri: str) -> dict[str, Any]:
    """What `--output json` prints of a sweep."""
    winner = result.winner
    return {
        "name": result.name,
        "trials": [_trial(t) for t in result.trials],
        "best": {"trial": winner.trial.name, **winner.trial.point},
        "validation": {
            "metric": winner.standing.metric,
            "mean": winner.standing.mean,
            "interval": winner.standing.interval,
        },
        "front": [t.name for t in result.front],
        "test_accuracy": winner.score.accuracy,
        "test_interval": winner.score.interval,
        "model": winner.uri,
        "alias": winner.alias,
        "tracking_uri": public(tracking_uri),
        "seconds": result.seconds,
    }


def result_table(result: SweepResult) -> str:
    """The end of a sweep in a few lines."""
    winner, (low, high) = result.winner, result.winner.score.interval
    lines = [f"winner: {winner.trial.name} ({_point(winner.trial)})"]
    if winner.standing.repeated:
        lines.append(f"validation: {winner.standing.describe()}")
    if result.front:
        lines.append("no trial beats these in every objective: " + ", ".join(t.name for t in result.front))
    if failed := [t for t in result.trials if t.status == "failed"]:
        lines.append(
            f"failed: {len(failed)} of {len(result.trials)} trials; vitray sweep report {result.name} says why"
        )
    lines += [
        f"test accuracy: {winner.score.accuracy:.4f} (95 % interval {low:.3f} to {high:.3f}, "
        f"{winner.score.samples} images no trial saw)",
        winner.describe(),
        f"took: {result.seconds:.0f} s",
    ]
    return "\n".join(lines)


def _trial(trial: TrialRecord) -> dict[str, Any]:
    facts = {"name": trial.name, "kind": trial.kind, "state": trial.status, "epoch": trial.epoch}
    return {**facts, "start_s": trial.start_s, "warm": trial.warm, "failure": trial.failure, **trial.point}


def _point(trial: TrialRecord) -> str:
    return ", ".join(
        f"{k.split('.', 1)[1]}={v:.4g}" if isinstance(v, float) else f"{k.split('.', 1)[1]}={v}"
        for k, v in trial.point.items()
    )


def _row(saved: SavedSweep) -> tuple[object, ...]:
    searched = [r for r in saved.records if r.kind == "search"]
    facts = saved.facts
    accuracy = f"{facts['test_accuracy']:.4f}" if "test_accuracy" in facts else ""
    ended = f"{sum(r.ended for r in searched)}/{saved.search['trials']}"
    return saved.name, saved.status, ended, facts.get("best", ""), accuracy, facts.get("model") or "", age(saved.time)
