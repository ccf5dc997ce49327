"""The loop begins with weights that were trained before, keeps a part of them, and resumes to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import STEPS, assert_bitwise_equal, restored, small_experiment, small_feed, tensors_of, train

from vitray.errors import CheckpointError, DataError
from vitray.models.package import save_package
from vitray.models.pretrained import weights_digest
from vitray.train.checkpoint import CheckpointStore
from vitray.train.loop import fresh_state
from vitray.train.optim import lr_at
from vitray.train.pretrained import begin_with_pretrained
from vitray.train.ranks import Ranks

pytestmark = pytest.mark.slow

SHAPE = {"model__depth": 3, "model__pos_encoding": "relative", "model__pool": "mean"}
RECIPES: dict[str, dict[str, Any]] = {
    "head": {"train__freeze": "all_but_head"},
    "blocks": {"train__freeze": "first_2", "optim__layer_decay": 0.7, "train__ema": 0.9, "train__accumulate": 2},
    "layers": {"optim__layer_decay": 0.6},
}


@pytest.fixture
def weights(digits: Path, tmp_path: Path) -> Path:
    """A model that differs from what the seed draws."""
    experiment = small_experiment(digits, train__seed=9, **SHAPE)
    source = fresh_state(experiment, Ranks()).model
    return save_package(tmp_path / "weights", source.state_dict(), small_feed(experiment).package_info())


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_learns_from_there_and_resumes_with_the_same_bits(
    digits: Path, tmp_path: Path, weights: Path, recipe: str
) -> None:
    values = {"train__init_from": str(weights), "train__epochs": 2, "train__checkpoint_steps": 3, "optim__lr": 1e-2}
    experiment = small_experiment(digits, **SHAPE, **values, **RECIPES[recipe])
    whole = train(experiment, tmp_path / "whole")
    assert whole[-1].metrics["train/loss"] < whole[0].metrics["train/loss"]
    last = lr_at(STEPS - 1, total_steps=2 * STEPS, steps_per_epoch=STEPS, config=experiment.optim)
    assert whole[0].metrics["lr"] == last  # the head's, whatever the layers have
    assert [r.epoch for r in train(experiment, tmp_path / "parts", stop_at_epoch=1)] == [1]
    assert restored(tmp_path / "parts", experiment)[0].step == STEPS
    weights.rename(tmp_path / "gone")  # what it began with is in its checkpoints
    train(experiment, tmp_path / "parts")
    ends = [restored(tmp_path / name, experiment)[1] for name in ("whole", "parts")]
    assert_bitwise_equal(*ends)
    began = fresh_state(small_experiment(digits, train__seed=9, **SHAPE), Ranks()).model.state_dict()
    kept = {name for name, tensor in began.items() if torch.equal(tensor, ends[0][f"model.{name}"])}
    if recipe == "head":
        assert kept == set(began) - {"head.weight", "head.bias"}
    elif recipe == "blocks":
        frozen = {name for name in began if name.startswith(("blocks.0", "blocks.1", "patch", "cls"))}
        assert {name for name in kept if not name.startswith("position.")} == frozen
        assert "position.offset" not in kept
        assert torch.equal(began["position.offset"][:2], ends[0]["model.position.offset"][:2])
        assert all(torch.equal(ends[0][f"ema.{name}"], began[name]) for name in kept)
    else:
        assert all(name.startswith("position.prefix") for name in kept)  # the mean over patches asks the last not


def test_a_fresh_state_takes_the_weights_and_its_average_too(digits: Path, weights: Path) -> None:
    experiment = small_experiment(digits, train__init_from=str(weights), train__ema=0.9, **SHAPE)
    source = fresh_state(small_experiment(digits, train__seed=9, **SHAPE), Ranks()).model
    state = fresh_state(experiment, Ranks())
    assert not torch.equal(state.model.head.weight, source.head.weight)
    report = begin_with_pretrained(state, experiment, tuple("0123456789"))
    assert report is not None
    assert report.adapted == ()
    assert_bitwise_equal(dict(state.model.state_dict()), dict(source.state_dict()))
    assert state.ema is not None
    assert_bitwise_equal(state.ema, dict(source.named_parameters()))


def test_a_layer_decay_of_one_changes_no_bit(digits: Path, tmp_path: Path) -> None:
    for name, values in (("one", {}), ("other", {"optim__layer_decay": 1.0})):
        train(small_experiment(digits, train__epochs=1, **values), tmp_path / name)
    experiment = small_experiment(digits, train__epochs=1)
    assert_bitwise_equal(*(restored(tmp_path / name, experiment)[1] for name in ("one", "other")))


def test_other_weights_than_were_checked_are_refused_where_the_ranks_are(
    digits: Path, tmp_path: Path, weights: Path
) -> None:
    values = {"train__init_from": "models:/a/1", "train__init_path": str(weights)}
    known = small_experiment(digits, train__init_sha256=weights_digest(weights), **values, **SHAPE)
    begin_with_pretrained(fresh_state(known, Ranks()), known, ())
    other = small_experiment(digits, train__init_sha256="0" * 64, **values, **SHAPE)
    with pytest.raises(DataError, match="not those that the run was made with"):
        train(other, tmp_path / "run")
    weights.rename(tmp_path / "gone")
    with pytest.raises(DataError, match="No such file"):
        train(known, tmp_path / "run")
    assert CheckpointStore(tmp_path / "run").newest() is None


def test_another_architecture_leaves_the_state_alone(digits: Path, weights: Path) -> None:
    experiment = small_experiment(digits, train__init_from=str(weights), **SHAPE | {"model__depth": 2})
    state = fresh_state(experiment, Ranks())
    before = {name: tensor.clone() for name, tensor in tensors_of(state).items()}
    with pytest.raises(CheckpointError, match=r"model\.depth was 3, is 2"):
        begin_with_pretrained(state, experiment, ())
    assert_bitwise_equal(before, tensors_of(state))
