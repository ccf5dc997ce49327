"""Training with compiled code: the same run but for rounding."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_runs import restored, small_experiment, train

from vitray.errors import ConfigError
from vitray.train.compiling import forget_compiled


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="a CPU compiles with g++")
def test_a_compiled_run_is_the_eager_one_but_for_rounding(digits: Path, tmp_path: Path) -> None:
    eager = small_experiment(digits, train__epochs=1, model__dropout=0.0)
    compiled = eager.with_values({"train.compile": True})
    reports = [train(eager, tmp_path / "eager"), train(compiled, tmp_path / "compiled")]
    forget_compiled()
    (a,), (b,) = reports
    assert b.metrics["train/loss"] == pytest.approx(a.metrics["train/loss"], rel=1e-4)
    weights = [restored(tmp_path / name, e)[1] for name, e in (("eager", eager), ("compiled", compiled))]
    assert weights[0].keys() == weights[1].keys(), "a checkpoint's names do not tell how it was trained"


def test_without_a_compiler_it_is_refused(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"train.compile.*no g\+\+"):
        train(small_experiment(digits, train__compile=True), tmp_path / "run")
