"""A run goes on from another run's checkpoint: the weights are the donor's, the record is its own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from vitray.errors import CheckpointError
from vitray.experiment import ModelConfig, OptimConfig
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo
from vitray.train.adopt import adopt
from vitray.train.checkpoint import CheckpointStore, Progress, TrainState, verify
from vitray.train.optim import make_optimizer

SHAPE = ModelConfig(image_size=8, patch_size=4, in_chans=1, num_classes=2, embed_dim=16, depth=1, num_heads=2)

INFO = PackageInfo(model=SHAPE, classes=("a", "b"), mean=(0.5,), std=(0.5,), dataset_fingerprint="f00d")


def state(seed: int) -> TrainState:
    torch.manual_seed(seed)
    model = VisionTransformer(SHAPE)
    optimizer = make_optimizer(model, OptimConfig())
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    return TrainState(model, optimizer)


def saved(folder: Path, made: TrainState, *steps: Progress) -> CheckpointStore:
    store = CheckpointStore(folder)
    for progress in steps:
        store.save(made, progress, INFO)
    store.wait()
    return store


def test_the_weights_are_the_donors_and_what_was_best_is_its_own(tmp_path: Path) -> None:
    donor, receiver = state(1), state(2)
    saved(tmp_path / "donor", donor, Progress(10, 0.95, 10), Progress(20, 0.95, 10, ({"step": 20, "epoch": 2},)))
    store = saved(tmp_path / "receiver", receiver, Progress(10, 0.3, 10), Progress(20, 0.3, 10))
    target = adopt(tmp_path / "donor", tmp_path / "receiver", 20)
    assert store.newest() == target
    assert verify(target) == Progress(20, 0.3, 10, ({"step": 20, "epoch": 2},))
    best = store.best()
    assert best is not None
    assert best.name.startswith("step-000000010-"), "the receiver's own"
    fresh = state(3)
    assert store.restore(fresh).step == 20
    for (name, ours), theirs in zip(fresh.model.named_parameters(), donor.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    slots, given = (made.optimizer.state_dict()["state"] for made in (fresh, donor))
    assert slots.keys() == given.keys()
    assert all(torch.equal(slots[index]["exp_avg"], given[index]["exp_avg"]) for index in given)


def test_it_waits_for_a_checkpoint_that_is_being_written_but_not_for_ever(tmp_path: Path) -> None:
    (tmp_path / "donor").mkdir()
    with pytest.raises(CheckpointError, match="there is no checkpoint of step 20"):
        adopt(tmp_path / "donor", tmp_path / "receiver", 20, timeout_s=0.1)
    later = threading.Timer(0.3, lambda: saved(tmp_path / "donor", state(1), Progress(20)).close())
    later.start()
    assert Path(adopt(tmp_path / "donor", tmp_path / "receiver", 20)).parent == tmp_path / "receiver"
    later.join()
