"""The training loop. It knows a feed, a model and a reporter; it runs inside Ray Train, and without Ray too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitray.data.rng import key
from vitray.data.unit import Batch
from vitray.experiment import Experiment
from vitray.models import VisionTransformer
from vitray.train.cadence import Cadence
from vitray.train.checkpoint import LEAVING_S, PATIENCE_S, CheckpointStore, Progress, TrainState
from vitray.train.compiling import compile_model
from vitray.train.device_feed import tensors_of
from vitray.train.epochs import Epochs, check_finite
from vitray.train.feed import Feed
from vitray.train.layers import freeze
from vitray.train.leaving import Leaving
from vitray.train.memory import micro_batches
from vitray.train.meter import Meter
from vitray.train.mixup import draw_mix
from vitray.train.optim import lr_at, make_optimizer
from vitray.train.precision import autocast
from vitray.train.pretrained import begin_with_pretrained
from vitray.train.ranks import Ranks, accumulating
from vitray.train.report import Report, Reporter
from vitray.train.whereabouts import SAVING, STARTING, Whereabouts

_SHOW_EVERY_S = 0.5
_LOOK_EVERY = 256  # steps of an epoch that may be a long one: so often its loss is looked at


def fit(
    feed: Feed,
    ranks: Ranks,
    reporter: Reporter,
    store: CheckpointStore,
    known_epoch: int | None = None,
    leaving: Leaving | None = None,
    whereabouts: Whereabouts | None = None,
) -> Progress:
    """Train a resolved experiment from its newest checkpoint (or from the start) until its last epoch or a stop.

    ``known_epoch``: whoever listens has the reports up to this epoch; later ones in the checkpoint are made again.
    ``leaving``: says when to leave after a step, in mid-epoch, with a checkpoint; its ``left_at`` then is that step.
    ``whereabouts``: is told where the loop is.

    Raises:
        NotFiniteError: the loss is not finite; every rank raises it.
    """
    experiment, config, leaving = feed.experiment, feed.experiment.train, leaving or Leaving()
    whereabouts = whereabouts or Whereabouts()
    whereabouts.at(STARTING, 0)
    per_epoch = feed.order.steps_per_epoch
    total = config.epochs * per_epoch
    state = fresh_state(experiment, ranks)
    progress = store.begin(state, ranks)
    if progress.step == 0:  # later the weights it began with may be gone
        begin_with_pretrained(state, experiment, feed.data.classes)
    leaving.step = progress.step
    if ranks.first:
        reporter.begin(progress.step, ranks.world_size)
    for kept in _unheard(progress, known_epoch):
        again = Report.again(kept, str(store.restored))
        if not ranks.agree(reporter.report(again) if ranks.first else True):
            return progress
    if config.compile:
        compile_model(state.model, ranks.device.type)
    model = ranks.wrap(state.model)
    meter = Meter(ranks.device, progress.so_far if ranks.first else None)
    cadence = Cadence(config, ranks, store, step=progress.step, per_epoch=per_epoch)
    epochs = Epochs(feed, reporter, store, state, meter, leaving, whereabouts, cadence, progress)
    if epochs.unreported and not epochs.end(progress.step):
        return epochs.progress
    with closing(feed.train(progress.step, total)) as batches:  # type: ignore[type-var]  # a stream is a generator
        taken = whereabouts.through(meter.watch(batches), progress.step)
        for step, batch in enumerate(taken, start=progress.step + 1):
            ranks.seed(key("step", config.seed, step, ranks.rank))  # dropout and stochastic depth
            lr = lr_at(step - 1, total_steps=total, steps_per_epoch=per_epoch, config=experiment.optim)
            for group in state.optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            meter.add(train_step(model, state, batch, feed), batch)
            if leaving.after(step):
                epochs.save(step)
                break
            if step % per_epoch == 0:
                if not epochs.end(step):
                    break
                continue
            if step % _LOOK_EVERY == 0:
                check_finite(meter.loss(ranks), "training", step)
            if cadence.after(step):
                epochs.save(step)
            if ranks.first and (values := meter.show(_SHOW_EVERY_S)):
                reporter.progress(step, {"lr": lr, **values})
    whereabouts.at(SAVING)
    store.wait(PATIENCE_S if leaving.left_at is None else LEAVING_S)
    return epochs.progress


def fresh_state(experiment: Experiment, ranks: Ranks) -> TrainState:
    """Weights drawn from the seed, so that every rank has the same; those that ``train.freeze`` keeps do not learn."""
    torch.manual_seed(key("init", experiment.train.seed))
    model = VisionTransformer(experiment.model).to(ranks.device)
    freeze(model, experiment.train)
    ema = {n: p.detach().clone() for n, p in model.named_parameters()} if experiment.train.ema else None
    return TrainState(model, make_optimizer(model, experiment.optim), ema)


def train_step(model: nn.Module, state: TrainState, batch: Batch, feed: Feed) -> torch.Tensor:
    """One optimizer step on this rank's rows; returns the sum of its rows' losses, a float32 scalar on the device.

    The gradient is that of the mean over the rows of all ranks, however unevenly they are divided.
    """
    config, ranks = feed.experiment.train, feed.ranks
    images, (_, labels, counted) = feed.to_input(batch), tensors_of(batch, ranks.device)
    targets = F.one_hot(labels, feed.experiment.model.num_classes or -1).float()
    if config.mixup or config.cutmix:
        first_row = feed.order.rank_span(batch.step, ranks.rank, ranks.world_size)[0] % config.global_batch
        mix = draw_mix(config, batch.step, first_row, batch.weight, feed.experiment.model.size)
        images, targets = mix.images(images), mix.targets(targets)
    # DDP averages over ranks, so each divides by its share of the step's rows.
    weights = counted * (ranks.world_size / batch.step_rows)
    total = torch.zeros((), device=ranks.device)
    micro = -(-len(labels) // micro_batches(feed.experiment, ranks.world_size))
    starts = range(0, len(labels), micro)
    for start in starts:
        part = slice(start, start + micro)
        with accumulating(model, last=start == starts[-1]), autocast(feed.experiment, ranks.device):
            losses = F.cross_entropy(
                model(images[part]), targets[part], reduction="none", label_smoothing=config.label_smoothing
            )
            loss = (losses.float() * weights[part]).sum()
            loss.backward()
        total += loss.detach()
    if config.clip_grad:
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        averages, current = list(state.ema.values()), [p.detach() for p in state.model.parameters()]
        torch._foreach_lerp_(averages, current, 1 - config.ema)
    return total * (batch.step_rows / ranks.world_size)


def _unheard(progress: Progress, known_epoch: int | None) -> list[Mapping[str, Any]]:
    """Reports to make again. Whoever listens may have missed the one that goes with the checkpoint, and earlier ones
    where the ranks do not wait for it: either side can die between a checkpoint and its report's delivery."""
    known = math.inf if known_epoch is None else known_epoch
    return [r for r in progress.reports if r["epoch"] > known or r["step"] == progress.step]
