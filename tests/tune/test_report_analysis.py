"""What a report concludes: comparisons and importances of trials whose law is known, and where their time went."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.search_config import SearchConfig
from vitray.tune.record import TrialRecord
from vitray.tune.report.compare import Comparison, compare
from vitray.tune.report.importance import importances
from vitray.tune.report.sample import Observation, Sample, sample
from vitray.tune.report.timing import PARTS, at_once, spent

CODE, PATCH, RATE = "model.pos_encoding", "model.patch_size", "optim.lr"
CODES = ("none", "learned", "rope_2d")
SEARCH = SearchConfig(space={CODE: list(CODES), PATCH: [1, 2, 4], RATE: {"log": [1e-4, 1e-2]}})


def sample_of(points: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> Sample:
    pairs = enumerate(zip(points, scores, strict=True))
    return Sample(4, [Observation(TrialRecord(i, f"t{i}", p), p, s) for i, (p, s) in pairs], 0)


def compared(made: Sample, key: str = CODE, search: SearchConfig = SEARCH, keys: Sequence[str] = ()) -> Comparison:
    order = search.space[key] if isinstance(search.space[key], list) else search.space[key]["values"]
    return compare(made, key, keys or list(search.space), search, order)


def record(epochs: int, status: str = "done", index: int = 0, **facts: Any) -> TrialRecord:
    reports = [{"epoch": float(e), "at": 10.0 * e, "val/accuracy": e / 100 + index} for e in range(1, epochs + 1)]
    known: dict[str, Any] = {"spans": [[0.0, 10.0 * epochs]], "epoch": epochs, **facts}
    return TrialRecord(index, f"t{index}", {PATCH: index}, status=status, reports=reports, **known)  # type: ignore[arg-type]


@settings(max_examples=40)
@given(st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3), st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6))
def test_matched_pairs_find_the_effect_whatever_the_others_do(effects: list[float], others: list[float]) -> None:
    rest = list(itertools.product((1, 2, 4), (1e-3, 2e-3)))
    points = [{CODE: code, PATCH: patch, RATE: rate} for code in CODES for patch, rate in rest]
    scores = [effects[CODES.index(p[CODE])] + others[rest.index((p[PATCH], p[RATE]))] for p in points]
    found = compared(sample_of(points, scores))
    assert found.reference == "none"
    for row in found.rows:
        assert (row.method, row.pairs, row.trials) == ("pairs", 6, 6)
        assert row.mean == pytest.approx(effects[CODES.index(row.value)] - effects[0], abs=1e-9)
        assert row.low - 1e-9 <= row.mean <= row.high + 1e-9


def random_search(generator: np.random.Generator, count: int, effect: float, noise: float) -> Sample:
    points = [
        {
            CODE: CODES[generator.integers(3)],
            PATCH: int(generator.choice([1, 2, 4])),
            RATE: float(10 ** generator.uniform(-4, -2)),
        }
        for _ in range(count)
    ]
    scores = [
        0.9
        + effect * (p[CODE] == "rope_2d")
        + 0.05 * math.log2(p[PATCH])
        - 0.1 * (math.log10(p[RATE]) + 3) ** 2
        + generator.normal(0, noise)
        for p in points
    ]
    return sample_of(points, scores)


@pytest.mark.parametrize("effect", [0.0, 0.03])
def test_intervals_of_a_random_search_hold_what_they_promise(effect: float) -> None:
    generator = np.random.default_rng(1)
    held = []
    for _ in range(100):
        made = random_search(generator, 24, effect, 0.01)
        row = next((r for r in compared(made).rows if r.value == "rope_2d"), None)
        if row is not None and row.method == "adjusted":
            held.append(row.low <= effect <= row.high)
    assert len(held) > 90
    assert 0.9 <= np.mean(held) <= 0.99


def test_an_adjusted_difference_is_not_fooled_by_who_got_the_better_rates() -> None:
    generator = np.random.default_rng(0)
    points, scores = [], []
    for i in range(30):
        code = CODES[i % 2]
        rate = 10 ** (generator.uniform(-3, -2) if code == "learned" else generator.uniform(-4, -2.8))
        points.append({CODE: code, RATE: float(rate)})
        scores.append(0.05 * math.log10(rate) - 0.02 * (code == "learned") + generator.normal(0, 0.001))
    raw = np.mean(scores[1::2]) - np.mean(scores[::2])
    (row,) = compared(sample_of(points, scores), keys=[CODE, RATE]).rows
    assert raw > 0.01
    assert row.high < 0
    assert row.low <= -0.02 <= row.high


def test_what_trials_cannot_tell_apart_is_not_told() -> None:
    patches = {"none": 1, "learned": 2, "rope_2d": 2}
    points = [{CODE: code, PATCH: patches[code]} for code in CODES for _ in range(4)]
    found = compared(sample_of(points, np.linspace(0.5, 0.9, 12).tolist()), keys=[CODE, PATCH])
    assert [(r.value, r.method) for r in found.rows] == [("learned", "none"), ("rope_2d", "none")]
    few = [{CODE: code, PATCH: patch} for code, patch in (("none", 1), ("learned", 2), ("none", 4))]
    assert [r.method for r in compared(sample_of(few, [0.1, 0.2, 0.3]), keys=[CODE, PATCH]).rows] == ["none"]


def test_a_value_that_hardly_a_trial_has_is_no_reference() -> None:
    points = [{CODE: code} for code in ("none", *["learned"] * 5, *["rope_2d"] * 4)]
    assert compared(sample_of(points, [0.5] * 10), keys=[CODE]).reference == "learned"


def test_a_key_that_only_one_value_has_belongs_to_the_value() -> None:
    grid = {"values": [[8, 8], [4, 4]], "when": f"{CODE} == rope_2d"}
    search = SearchConfig(space={CODE: ["none", "rope_2d"], "model.pos_grid": grid, PATCH: [1, 2, 4]})
    points: list[dict[str, Any]] = [{CODE: "none", PATCH: p} for p in (1, 2, 4)]
    points += [{CODE: "rope_2d", PATCH: p, "model.pos_grid": g} for p in (1, 2, 4) for g in ((8, 8), (4, 4))]
    brings = {None: 0.0, (8, 8): 0.3, (4, 4): 0.4}
    scores = [0.1 * p[PATCH] + brings[p.get("model.pos_grid")] for p in points]
    (row,) = compared(sample_of(points, scores), search=search).rows
    assert (row.method, row.pairs) == ("pairs", 3)
    assert row.mean == pytest.approx(0.35)


def test_trials_are_compared_after_the_epoch_before_anyone_was_stopped() -> None:
    kept = [record(12, index=0), record(4, "stopped", 1, ended_by="asha"), record(6, "running", 2)]
    cut = [record(2, "stopped", 3, ended_by="budget"), record(1, "failed", 4), record(3, "running", 5)]
    waiting = [TrialRecord(6, "t6", {PATCH: 6}), record(9, index=7, kind="repeat")]
    found = sample([*kept, *cut, *waiting], "val/accuracy")
    assert found is not None
    assert (found.epoch, found.left_out) == (4, 3)
    assert {o.record.index: o.score for o in found.observations} == {0: 0.04, 1: 1.04, 2: 2.04}
    assert sample(cut, "val/accuracy") is None
    assert sample(kept, "val/loss") is None


def test_nothing_counts_after_pbt_gave_a_trial_anothers_weights() -> None:
    change = {"epoch": 4, "donor": 1, "point": {PATCH: 9}}
    changed = record(12, index=0, changes=[change], first_point={PATCH: 0})
    changed.point = {PATCH: 9}
    found = sample([changed, record(12, index=1)], "val/accuracy")
    assert found is not None
    assert found.epoch == 4
    assert [o.point[PATCH] for o in found.observations] == [0, 1]


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 4), st.floats(0, 3), st.booleans()), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_the_parts_of_a_trials_time_are_all_of_it(spans: list[tuple[float, int, float, bool]], wait: float) -> None:
    """Each span: seconds to its start, reports, seconds that no report accounts for, and a break before the next."""
    trial, now, starts, rest, epoch = TrialRecord(0, "t", {}), 1e9, 0.0, 0.0, 0
    for start, reports, idle, pause in spans:
        begin = now
        now += start
        for _ in range(reports):
            now, epoch = now + 2.75, epoch + 1
            metrics = {"epoch_s": 2.0, "data_wait": wait, "eval_s": 0.5, "checkpoint_s": 0.25}
            trial.reports.append({"epoch": epoch, "at": now, **metrics})
        now += idle
        starts, rest = starts + (start if reports else 0.0), rest + idle + (0.0 if reports else start)
        trial.spans.append([begin, now])
        now += 100.0 * pause + 0.01
    found = spent(trial).parts
    assert sum(found.values()) == pytest.approx(trial.seconds, abs=1e-4)
    wanted = (starts, 2 * wait * epoch, 2 * (1 - wait) * epoch, 0.5 * epoch, 0.25 * epoch, rest)
    assert [found[part] for part in PARTS] == pytest.approx(wanted, abs=1e-4)


def test_a_break_of_the_whole_sweep_is_no_wall_time() -> None:
    broken, whole = [[0.0, 10.0], [500.0, 505.0]], [[5.0, 15.0]]
    trials = [TrialRecord(i, "t", {}, spans=spans) for i, spans in enumerate((broken, whole))]
    assert at_once(trials) == (20.0, 25.0 / 20.0)
    assert at_once([]) == (0.0, 0.0)


@pytest.mark.slow
def test_importance_finds_what_decides_and_says_where_nothing_does() -> None:
    generator = np.random.default_rng(3)
    made = random_search(generator, 60, 0.0, 0.005)
    found = importances(made, [CODE, PATCH, RATE], higher=True)
    assert found is not None
    assert {r.key for r in found.rows[:2]} == {PATCH, RATE}
    assert [r.sure for r in found.rows] == [True, True, False]
    assert found.explained > 0.6
    noise = sample_of([o.point for o in made.observations], generator.normal(size=60).tolist())
    nothing = importances(noise, [CODE, PATCH, RATE], higher=True)
    assert nothing is not None
    assert nothing.explained < 0.1
    assert not any(r.sure for r in nothing.rows)
    assert importances(sample_of([{PATCH: i % 3} for i in range(7)], list(range(7))), [PATCH], higher=True) is None


@pytest.mark.slow
def test_one_trial_that_diverged_does_not_decide_what_mattered_for_a_loss() -> None:
    generator = np.random.default_rng(5)
    points = [{PATCH: int(generator.choice([1, 2, 4])), RATE: float(generator.uniform(1, 2))} for _ in range(40)]
    scores = [0.5 - 0.1 * p[PATCH] + generator.normal(0, 0.01) for p in points]
    scores[11] = 1e6
    found = importances(sample_of(points, scores), [PATCH, RATE], higher=False)
    assert found is not None
    assert found.rows[0].key == PATCH
    assert found.rows[0].sure
