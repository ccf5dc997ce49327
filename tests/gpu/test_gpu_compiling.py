"""Compiled trials in a row: none falls back to eager code, and none leaves memory behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compiled_trials import SHAPES, run_trial
from small_runs import small_experiment, train

from vitray.train.ranks import Ranks

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
_MIB = 2**20


@pytest.mark.timeout(3000)  # a trial compiles for up to a minute or two
def test_20_compiled_trials_run_compiled_and_leave_memory_flat(gpu: torch.device, digits: Path, tmp_path: Path) -> None:
    trials = [run_trial(number, digits, tmp_path, gpu, **values) for number, values in enumerate(SHAPES)]
    assert len(trials) == 20
    for trial, values in zip(trials, SHAPES, strict=True):
        assert trial.graphs >= 1, f"{values} ran without compiled code"
        assert not trial.eager, f"{values} ran in part without compiled code: {trial.eager}"
    settled = trials[2:]  # by the third, libraries have taken their workspaces
    for bytes_held in ([t.allocated for t in settled], [t.reserved for t in settled]):
        assert max(bytes_held) - min(bytes_held) <= 2 * _MIB, bytes_held


def test_a_compiled_run_is_the_eager_one_but_for_rounding(gpu: torch.device, digits: Path, tmp_path: Path) -> None:
    values = {"train__epochs": 1, "model__dropout": 0.0, "train__precision": "float32"}
    (eager,) = train(small_experiment(digits, **values), tmp_path / "eager", ranks=Ranks(device=gpu))
    assert run_trial(0, digits, tmp_path, gpu, train__precision="float32").loss == pytest.approx(
        eager.metrics["train/loss"], rel=1e-3
    )
