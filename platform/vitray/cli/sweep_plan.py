"""The table of ``vitray sweep plan``."""

from __future__ import annotations

from typing import Any

from vitray.cli.output import grid

Rows = list[tuple[str, object]]


def plan_table(facts: dict[str, Any]) -> str:
    """What :meth:`vitray.tune.plan.SweepPlan.describe` says, for people."""
    rows: Rows = [
        *_space(facts),
        ("trials", facts["trials"]),
        ("algorithm", _algorithm(facts)),
        ("trials at once", facts["trials_at_once"]),
        ("a trial takes", facts["resources_per_trial"]),
        ("metric", facts["metric"]),
        ("scheduler", facts["scheduler"]),
        *_schedule(facts),
        *_budget(facts),
        ("training", _range(facts["training_flops"], "FLOP")),
        ("worker-hours", _hours(facts)),
        *_afterwards(facts["afterwards"]),
        *(("begins with", line.strip()) for line in facts.get("begins_with", "").splitlines()),
    ]
    return grid(rows, ("what", "value"))


def _space(facts: dict[str, Any]) -> Rows:
    many = "a continuum" if facts["points_in_grid"] is None else f"{facts['points_in_grid']:,} points"
    valid = "" if facts["valid_points"] is None else f", {facts['valid_points']:,} valid"
    rows: Rows = [
        ("space", f"{many}{valid}"),
        ("architectures", f"{facts['valid_architectures']:,} of {facts['architectures']:,} valid"),
    ]
    if facts["combinations"] != facts["architectures"]:  # some keys decide on others, or on what is valid
        rows.append(("  with others", f"{facts['valid_combinations']:,} of {facts['combinations']:,} valid"))
    rows += [("  refused", f"{count:,}: {reason}") for reason, count in facts["refused"].items()]
    if (beyond := facts["points_beyond_memory"]) != 0:
        count = "some" if beyond is None else f"{beyond:,}"
        rows.append(("  refused", f"{count} points: their batches need more memory"))
    return rows + [(end, _architecture(facts[end])) for end in ("cheapest", "dearest")]


def _architecture(facts: dict[str, Any]) -> str:
    point = ", ".join(f"{name.split('.', 1)[1]}={value}" for name, value in facts["point"].items())
    cost = (
        f"{facts['parameters']:,} parameters, {facts['training_flops_an_image'] / 1e9:.3g} GFLOP to train on an image"
    )
    return f"{cost} ({point})" if point else cost


def _algorithm(facts: dict[str, Any]) -> str:
    said = [facts["algorithm"]]
    if facts["algorithm"] == "grid" and facts["valid_points"] not in (None, facts["trials"]):
        said.append(f"the first {facts['trials']:,} of {facts['valid_points']:,} valid points")
    if "proposed" in facts:
        said.append(facts["proposed"])
    if "objectives" in facts:
        said.append(f"trades off {', '.join(facts['objectives'])}")
    if "begins_with_trials_of" in facts:
        said.append(f"begins with the trials of {facts['begins_with_trials_of']}")
    return "; ".join(said)


def _schedule(facts: dict[str, Any]) -> Rows:
    if brackets := facts.get("brackets"):
        return [("  bracket", ", ".join(f"epoch {r['epoch']}: {_trials(r)}" for r in bracket)) for bracket in brackets]
    if at := facts.get("compared_at_epochs"):
        return [("  compared", f"{len(at)} times, at epochs {at[0]} to {at[-1]}")]
    return [("  rung", f"epoch {r['epoch']}: about {_trials(r)}") for r in facts["rungs"]]


def _trials(rung: dict[str, int]) -> str:
    return f"{rung['trials']} trial{'s' if rung['trials'] != 1 else ''}"


def _budget(facts: dict[str, Any]) -> Rows:
    budget = facts.get("budget", {})
    return [("budget", " or ".join(f"{most:g} {n.replace('_', '-')}" for n, most in budget.items()))] if budget else []


def _hours(facts: dict[str, Any]) -> str:
    hours = facts["worker_hours"]
    if hours is None:
        return "not known before a sweep of this home has run there"
    wait = _time(facts["wall_hours_expected"])
    return f"{_range(hours)}: {wait} to wait for the search ({hours['source']})"


def _time(hours: float) -> str:
    return f"about {hours:.1f} h" if hours >= 1 else f"about {max(1, round(hours * 60))} min"


def _afterwards(after: dict[str, Any]) -> Rows:
    """The row of what follows the search, if anything does."""
    parts = [f"{after['repeats']} repeats of finalists"] if after["repeats"] else []
    parts += [f"retraining over {epochs} epochs"] if (epochs := after["retraining_epochs"]) else []
    if not parts:
        return []
    hours = f", {_range(after['worker_hours'])} worker-hours" if after["worker_hours"] else ""
    return [("afterwards", f"{' and '.join(parts)}: {_range(after['training_flops'], 'FLOP')}{hours}")]


def _range(cost: dict[str, float], unit: str = "") -> str:
    expected, most, unit = cost["expected"], cost["at_most"], f" {unit}" if unit else ""
    return f"{most:.3g}{unit}" if expected == most else f"about {expected:.3g}{unit}, at most {most:.3g}"
