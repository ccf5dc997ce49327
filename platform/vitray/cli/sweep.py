"""``vitray sweep``: plan, run, list."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from vitray.cli.options import address_option, config_argument, overrides_argument
from vitray.cli.output import emit, grid, note, output_option

if TYPE_CHECKING:
    from vitray.cluster.launch import Prepared, SweepResult
    from vitray.home import Home


@click.group()
def sweep() -> None:
    """Search the Vision Transformer: patch size, depth, heads, positional encoding, and what else you name."""


@sweep.command()
@config_argument
@overrides_argument
@address_option
@output_option
def plan(config: str, overrides: tuple[str, ...], address: str | None, output: str) -> None:
    """What a sweep would do: size of the space, valid share, resources of a trial, trials at once. Runs nothing."""
    from vitray.cluster.launch import Prepared
    from vitray.cluster.launch import plan as plan_only

    prepared = Prepared.load(config, overrides)
    facts = plan_only(prepared, address=address).describe(prepared.data.num_samples("train"))
    emit(facts, output, table=lambda: _plan_table(facts))


@sweep.command()
@config_argument
@overrides_argument
@address_option
@output_option
def run(config: str, overrides: tuple[str, ...], address: str | None, output: str) -> None:
    """Run the sweep in CONFIG, retrain its winner, measure it once on the test split, and register it."""
    from vitray.cluster.launch import Prepared
    from vitray.home import Home

    prepared, home = Prepared.load(config, overrides), Home.find()
    note(f"state: {home.root}")
    result = run_shown(prepared, home, address)
    emit(summary(result, home.tracking_uri), output, table=lambda: result_table(result))


@sweep.command(name="list")
@output_option
def list_(output: str) -> None:
    """The sweeps of this home, newest first."""
    from vitray.home import Home
    from vitray.tune.state import list_sweeps

    home = Home.find()
    states = list_sweeps(home.runs)
    if not states:
        note(f"no sweeps in {home.runs}; start one with: vitray sweep run CONFIG")
    rows = [
        (
            s["name"],
            s["status"],
            f"{_ended(s)}/{len(s['trials'])}",
            s.get("best", ""),
            f"{s['test_accuracy']:.4f}" if "test_accuracy" in s else "",
            s.get("model", ""),
            _age(s["time"]),
        )
        for s in states
    ]
    headers = ("sweep", "state", "trials", "best", "test accuracy", "model", "age")
    emit(states, output, table=lambda: grid(rows, headers) if rows else "")


def run_shown(prepared: Prepared, home: Home, address: str | None) -> SweepResult:
    """Run a sweep with its live table on stderr."""
    from contextlib import ExitStack

    from vitray.cli.live import SweepTable
    from vitray.cluster.launch import sweep as run_sweep
    from vitray.tune.plan import SweepPlan

    with ExitStack() as shown:

        def display(sweep_plan: SweepPlan) -> SweepTable:
            facts = sweep_plan.describe()
            note(f"{facts['trials']} trials, {facts['trials_at_once']} at once, each {facts['resources_per_trial']}")
            if sweep_plan.weights:
                note(f"begins with {sweep_plan.weights}")
            return shown.enter_context(SweepTable(sweep_plan))

        return run_sweep(prepared, home, display, address=address)


def summary(result: SweepResult, tracking_uri: str) -> dict[str, Any]:
    """What `--output json` prints of a sweep."""
    winner = result.winner
    return {
        "name": result.name,
        "trials": [
            {"name": t.name, "state": t.status, "epoch": t.epoch, "start_s": t.start_s, "warm": t.warm, **t.point}
            for t in result.trials
        ],
        "best": {"trial": winner.trial.name, **winner.trial.point},
        "test_accuracy": winner.score.accuracy,
        "test_interval": winner.score.interval,
        "model": f"models:/{winner.model}/{winner.version}",
        "tracking_uri": tracking_uri,
        "seconds": result.seconds,
    }


def result_table(result: SweepResult) -> str:
    """The end of a sweep in a few lines."""
    winner, (low, high) = result.winner, result.winner.score.interval
    point = ", ".join(
        f"{k.split('.', 1)[1]}={v:.4g}" if isinstance(v, float) else f"{k.split('.', 1)[1]}={v}"
        for k, v in winner.trial.point.items()
    )
    return (
        f"winner: {winner.trial.name} ({point})\n"
        f"test accuracy: {winner.score.accuracy:.4f} (95 % interval {low:.3f} to {high:.3f}, "
        f"{winner.score.samples} images no trial saw)\n"
        f"registered: models:/{winner.model}/{winner.version}, alias champion\n"
        f"took: {result.seconds:.0f} s"
    )


def _plan_table(facts: dict[str, Any]) -> str:
    many = "a continuum" if facts["points_in_grid"] is None else f"{facts['points_in_grid']:,} points"
    valid = "" if facts["valid_points"] is None else f", {facts['valid_points']:,} valid"
    rows = [
        ("space", f"{many}{valid}"),
        ("architectures", f"{facts['valid_architectures']} of {facts['architectures']} valid"),
        *(("  refused", f"{count}: {reason}") for reason, count in facts["refused"].items()),
        *((end, _architecture(facts[end])) for end in ("cheapest", "dearest")),
        ("trials", facts["trials"]),
        ("trials at once", facts["trials_at_once"]),
        ("a trial takes", facts["resources_per_trial"]),
        ("metric", facts["metric"]),
        ("scheduler", facts["scheduler"]),
        *(("  rung", f"epoch {r['epoch']}: about {r['trials']} trials") for r in facts["rungs"]),
        ("training", _training(facts["training_flops"])),
        *(("begins with", line.strip()) for line in facts.get("begins_with", "").splitlines()),
    ]
    return grid(rows, ("what", "value"))


def _architecture(facts: dict[str, Any]) -> str:
    point = ", ".join(f"{name.split('.', 1)[1]}={value}" for name, value in facts["point"].items())
    cost = (
        f"{facts['parameters']:,} parameters, {facts['training_flops_an_image'] / 1e9:.3g} GFLOP to train on an image"
    )
    return f"{cost} ({point})" if point else cost


def _training(flops: dict[str, float]) -> str:
    expected, most = flops["expected"], flops["at_most"]
    return f"{most:.3g} FLOP" if expected == most else f"about {expected:.3g} FLOP, at most {most:.3g}"


def _ended(state: dict[str, Any]) -> int:
    return sum(t["status"] in ("done", "stopped", "failed") for t in state["trials"])


def _age(when: float) -> str:
    seconds = time.time() - when
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
