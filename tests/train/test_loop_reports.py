"""What a run says while it goes on: reports made again, and a loss that is not finite."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import small_experiment, train

from vitray.errors import NotFiniteError

pytestmark = pytest.mark.slow


def test_reports_that_nobody_took_are_made_again_as_they_were(digits: Path, tmp_path: Path) -> None:
    """A driver that was killed may know of none of them, or of some; ranks did not wait for it."""
    experiment = small_experiment(digits, train__epochs=4)
    made = train(experiment, tmp_path, stop_at_epoch=3)
    for known, epochs in ((0, [1, 2, 3]), (1, [2, 3]), (None, [3])):
        again = train(experiment, tmp_path, stop_at_epoch=3, known_epoch=known)
        assert [report.epoch for report in again] == epochs
        for report in again:
            before = made[report.epoch - 1]
            assert (report.step, report.timestamp_ms) == (before.step, before.timestamp_ms)
            assert report.metrics.items() <= before.metrics.items()
    assert [report.epoch for report in train(experiment, tmp_path, known_epoch=3)] == [3, 4]


def test_in_a_long_epoch_a_loss_that_is_not_finite_is_noticed_before_its_end(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitray.train.loop._LOOK_EVERY", 2)
    wild = small_experiment(digits, optim__lr=1e30, optim__warmup_epochs=0.0, train__clip_grad=None)
    with pytest.raises(NotFiniteError, match=r"training loss is (nan|inf) after step [24]\n"):
        train(wild, tmp_path)
    assert not list(tmp_path.glob("step-*"))
