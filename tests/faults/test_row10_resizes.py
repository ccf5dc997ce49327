"""Row 10: two ranks, then one, then two in mid-epoch: the same samples in every step, and the same loss."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from injections import record
from other_processes import CONTEXT, train_stretch, train_stretch_as_rank
from small_runs import STEPS, small_experiment, small_feed
from test_elastic_parity import losses

from vitray.experiment import Experiment
from vitray.train.ranks import Ranks

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]
_EPOCHS = 6
_SIZES = {8: 2, 13: 1, 21: 2, 24: 1, 28: 2, 30: 2}  # so many ranks until that step
_FIRST, _LATER = 1e-5, 1e-3


def stretch(experiment: Experiment, folder: Path, ranks: int, until: int) -> None:
    if ranks == 1:
        train_stretch(experiment, folder, Ranks(), until)
        return
    meet = folder / f"meet-{until}"
    two = [
        CONTEXT.Process(target=train_stretch_as_rank, args=(rank, ranks, meet, experiment, folder, until))
        for rank in range(ranks)
    ]
    for process in two:
        process.start()
    for process in two:
        process.join(300)
        assert process.exitcode == 0


def test_resizes_in_mid_epoch_change_neither_samples_nor_loss(digits: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    experiment = small_experiment(
        digits, cluster__workers=(1, 2), train__precision="float32", model__dropout=0.0, train__mixup=0.4,
        train__ema=0.9, train__epochs=_EPOCHS, train__checkpoint_steps=1, train__keep_last=100,
    )  # fmt: skip
    steady, changing = tmp_path / "steady", tmp_path / "changing"
    steady.mkdir()
    changing.mkdir()
    stretch(experiment, steady, 2, last := max(_SIZES))
    for until, ranks in _SIZES.items():
        stretch(experiment, changing, ranks, until)

    order = small_feed(experiment).order
    taken: dict[int, list[tuple[int, int, list[int]]]] = {}
    for ledger in changing.glob("ledger-*"):
        for line in ledger.read_text().splitlines():
            step, rank, size, samples = json.loads(line)
            taken.setdefault(step, []).append((rank, size, samples))
    assert sorted(taken) == list(range(last))
    wrong = 0
    for step, parts in taken.items():
        size = next(ranks for until, ranks in _SIZES.items() if step < until)
        assert [part[1] for part in parts] == [size] * size
        wrong += [s for _, _, part in sorted(parts) for s in part] != order.step_samples(step).tolist()

    expected, found = losses(steady), losses(changing)
    assert found.keys() == expected.keys() == set(range(1, last + 1))
    differences = {step: abs(found[step] - expected[step]) for step in expected}
    sizes = list(_SIZES.items())
    resized = [until + 1 for (until, size), (_, after) in pairwise(sizes) if size != after]
    first, later = max(differences[step] for step in resized), max(differences.values())
    held = wrong == 0 and first < _FIRST and later < _LATER
    record(
        10,
        f"{len(resized)} resizes within {last // STEPS} epochs: {wrong} steps with other samples; loss differs by "
        f"{first:.1e} at most in the first step after one, by {later:.1e} at most in any",
        held=held,
        first=first,
        later=later,
        row_s=round(time.monotonic() - begun),
    )
    assert wrong == 0
    assert max(differences[step] for step in range(1, resized[0])) == 0
    assert first < _FIRST, differences
    assert later < _LATER, differences
