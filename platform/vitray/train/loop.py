"""The training loop. It knows a feed, a model and a reporter; it runs inside Ray Train, and without Ray too."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitray.data.rng import key
from vitray.data.unit import Batch
from vitray.errors import NotFiniteError
from vitray.experiment import Experiment
from vitray.models import VisionTransformer
from vitray.train.checkpoint import CheckpointStore, Progress, TrainState
from vitray.train.compiling import compile_model
from vitray.train.device_feed import tensors_of
from vitray.train.evaluate import evaluate
from vitray.train.feed import Feed
from vitray.train.latency import latency_ms, wants_latency
from vitray.train.layers import freeze
from vitray.train.meter import Meter
from vitray.train.mixup import draw_mix
from vitray.train.optim import lr_at, make_optimizer
from vitray.train.precision import autocast
from vitray.train.pretrained import begin_with_pretrained
from vitray.train.ranks import Ranks, accumulating
from vitray.train.report import Report, Reporter
from vitray.train.system import PREFIX as SYSTEM
from vitray.train.system import SystemMeter

_SHOW_EVERY_S = 0.5
_LOOK_EVERY = 256  # steps of an epoch that may be a long one: so often its loss is looked at


def fit(
    feed: Feed, ranks: Ranks, reporter: Reporter, store: CheckpointStore, known_epoch: int | None = None
) -> Progress:
    """Train a resolved experiment from its newest checkpoint (or from the start) until its last epoch or a stop.

    ``known_epoch``: whoever listens has the reports up to this epoch; later ones in the checkpoint are made again.

    Raises:
        NotFiniteError: the loss is not finite; every rank raises it.
    """
    experiment, config = feed.experiment, feed.experiment.train
    per_epoch = feed.order.steps_per_epoch
    total = config.epochs * per_epoch
    state = fresh_state(experiment, ranks)
    progress = store.restore(state)
    if progress.step == 0:  # later the weights it began with may be gone
        begin_with_pretrained(state, experiment, feed.data.classes)
    for kept in _unheard(progress, known_epoch):
        again = Report.again(kept, str(store.newest()))
        if not ranks.agree(reporter.report(again) if ranks.first else True):
            return progress
    if config.compile:
        compile_model(state.model, ranks.device.type)
    model = ranks.wrap(state.model)
    meter = Meter(ranks.device)
    system = SystemMeter(ranks.device) if ranks.first else None
    # Retrained on train+val, or prepared without a val split, there is nothing to validate on.
    validates = config.split == "train" and feed.data.num_samples("val") > 0
    with closing(feed.train(progress.step, total)) as batches:  # type: ignore[type-var]  # a stream is a generator
        for step, batch in enumerate(meter.watch(batches), start=progress.step + 1):
            ranks.seed(key("step", config.seed, step, ranks.rank))  # dropout and stochastic depth
            lr = lr_at(step - 1, total_steps=total, steps_per_epoch=per_epoch, config=experiment.optim)
            for group in state.optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            meter.add(train_step(model, state, batch, feed), batch)
            if step % per_epoch == 0:
                metrics = {"lr": lr, **meter.close_epoch(ranks)}
                _check_finite(metrics["train/loss"], "training", step)
                if validates:
                    weights = averaged_weights(state)
                    scores = evaluate(weights, feed.evaluation("val"), feed.to_input, ranks)
                    metrics |= {f"val/{k}": v for k, v in scores}
                    _check_finite(metrics["val/loss"], "validation", step)
                if step == total and ranks.first and wants_latency(experiment):
                    metrics["latency_ms"] = latency_ms(averaged_weights(state), experiment, ranks.device)
                metrics["eval_s"] = meter.lap()
                if system is not None:
                    metrics |= system.read()
                report = Report(step, step // per_epoch, metrics, first_step_at=meter.first_step_at)
                progress = _advance(progress, report)
                folder = store.save(state, progress, feed.package_info()) if ranks.first else None
                report = replace(report, metrics={**metrics, "checkpoint_s": meter.lap()}, checkpoint=str(folder))
                if not ranks.agree(reporter.report(report) if ranks.first else True):
                    break
                continue
            if step % _LOOK_EVERY == 0:
                _check_finite(meter.loss(ranks), "training", step)
            if ranks.first:
                if config.checkpoint_steps and step % config.checkpoint_steps == 0:
                    store.save(state, replace(progress, step=step), feed.package_info())
                if values := meter.show(_SHOW_EVERY_S):
                    reporter.progress(step, {"lr": lr, **values})
    store.wait()
    return progress


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
    micro = -(-len(labels) // config.accumulate)
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


def averaged_weights(state: TrainState) -> nn.Module:
    """The model to evaluate: with the averaged weights where they are kept."""
    if state.ema is None:
        return state.model
    model = copy.deepcopy(state.model)
    model.load_state_dict(state.ema, strict=False)
    return model


def _unheard(progress: Progress, known_epoch: int | None) -> list[Mapping[str, Any]]:
    """Reports to make again. Whoever listens may have missed the one that goes with the checkpoint, and earlier ones
    where the ranks do not wait for it: either side can die between a checkpoint and its report's delivery."""
    known = math.inf if known_epoch is None else known_epoch
    return [r for r in progress.reports if r["epoch"] > known or r["step"] == progress.step]


def _advance(progress: Progress, report: Report) -> Progress:
    kept = report.as_json()
    kept["metrics"] = {key: value for key, value in report.metrics.items() if not key.startswith(SYSTEM)}
    progress = replace(progress, step=report.step, reports=(*progress.reports, kept))
    score = report.metrics.get("val/accuracy")
    if score is not None and (progress.best is None or score > progress.best):
        progress = replace(progress, best=score, best_step=report.step)
    return progress


def _check_finite(loss: float, which: str, step: int) -> None:
    """``loss`` is that of all ranks, so that all raise together."""
    if not math.isfinite(loss):
        raise NotFiniteError(
            f"the {which} loss is {loss} after step {step}", remedy="lower optim.lr, or raise optim.warmup_epochs"
        )
