"""Small trainings on digits, without Ray: seconds of work, but the real loop, stream and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitray.data import ShardedImages
from vitray.data.stream import StreamOptions
from vitray.experiment import Experiment
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo
from vitray.train.checkpoint import CheckpointStore, Progress, TrainState
from vitray.train.feed import Feed
from vitray.train.leaving import Leaving
from vitray.train.loop import fit
from vitray.train.optim import make_optimizer
from vitray.train.ranks import Ranks
from vitray.train.report import RecordingReporter, Report

STEPS = 5  # in an epoch of 1,258 digits in batches of 256; the last has 234


def small_experiment(data: Path, **values: Any) -> Experiment:
    """A resolved experiment; ``train__epochs=3`` sets ``train.epochs``."""
    base = Experiment(
        data={"path": str(data), "augment": {"shift": 1}},
        model={"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2, "dropout": 0.1},
        train={"epochs": 2, "global_batch": 256},
        optim={"lr": 3e-3, "warmup_epochs": 0.5},
    )
    chosen = base.with_values({key.replace("__", "."): value for key, value in values.items()})
    return ShardedImages.open(str(data)).resolve(chosen)


def small_feed(experiment: Experiment, ranks: Ranks | None = None) -> Feed:
    data = ShardedImages.open(experiment.data.path)
    return Feed(experiment, data, ranks or Ranks(), StreamOptions(executor="local"))


def train(
    experiment: Experiment,
    folder: Path | str,
    *,
    stop_at_epoch: int | None = None,
    ranks: Ranks | None = None,
    known_epoch: int | None = None,
    on_report: Callable[[Report], None] | None = None,
    leaving: Leaving | None = None,
    notes: list[str] | None = None,
) -> list[Report]:
    """Run the loop into ``folder``, from its newest checkpoint on; returns the reports. ``notes`` gets what is said."""

    class Listening(RecordingReporter):
        def report(self, report: Report) -> bool:
            if on_report is not None:
                on_report(report)
            return super().report(report)

    reporter = Listening(stop_at_epoch)
    tell = reporter.note if notes is None else notes.append
    store = CheckpointStore(
        folder, keep_last=experiment.train.keep_last, keep_best=experiment.train.keep_best, tell=tell
    )
    ranks = ranks or Ranks()
    try:
        fit(small_feed(experiment, ranks), ranks, reporter, store, known_epoch, leaving)
    finally:
        store.close()
    return reporter.reports


def small_state(seed: int = 0, *, ema: bool = False, embed_dim: int = 8) -> tuple[TrainState, PackageInfo]:
    """A tiny model and optimizer, two steps in, so that every tensor of a checkpoint is there."""
    torch.manual_seed(seed)
    experiment = Experiment(
        data={"path": "x"},
        model={
            "image_size": 4, "patch_size": 2, "in_chans": 1, "num_classes": 3,
            "embed_dim": embed_dim, "depth": 1, "num_heads": 2,
        },
    )  # fmt: skip
    model = VisionTransformer(experiment.model)
    averages = {n: torch.randn_like(p) for n, p in model.named_parameters()} if ema else None
    state = TrainState(model, make_optimizer(model, experiment.optim), averages)
    for _ in range(2):
        model(torch.randn(2, 1, 4, 4)).square().sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
    return state, PackageInfo(
        model=experiment.model, classes=("a", "b", "c"), mean=(0.5,), std=(0.5,), dataset_fingerprint="f"
    )


def tensors_of(state: TrainState) -> dict[str, torch.Tensor]:
    """All that a checkpoint must bring back, by name."""
    slots = state.optimizer.state_dict()["state"]
    return {
        **{f"model.{name}": tensor for name, tensor in state.model.state_dict().items()},
        **{f"ema.{name}": tensor for name, tensor in (state.ema or {}).items()},
        **{f"optimizer.{i}.{name}": tensor for i, slot in slots.items() for name, tensor in slot.items()},
    }


def assert_bitwise_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def restored(folder: Path | str, experiment: Experiment) -> tuple[Progress, dict[str, torch.Tensor]]:
    """Where a run stands (without the times it took), and every tensor of its newest checkpoint."""
    from vitray.train.loop import fresh_state

    state = fresh_state(experiment, Ranks())
    store = CheckpointStore(folder)
    progress = store.restore(state)
    store.close()
    return replace(progress, reports=()), tensors_of(state)
