"""What becomes of steps: the end of an epoch with its evaluation, report and checkpoint; and checkpoints in between."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import nn

from vitray.data.unit import Batch
from vitray.errors import NotFiniteError
from vitray.train.cadence import Cadence
from vitray.train.checkpoint import CheckpointStore, Progress, TrainState
from vitray.train.evaluate import evaluate
from vitray.train.feed import Feed
from vitray.train.latency import latency_ms, wants_latency
from vitray.train.leaving import Leaving
from vitray.train.meter import Meter
from vitray.train.optim import lr_at
from vitray.train.report import Report, Reporter
from vitray.train.system import PREFIX as SYSTEM
from vitray.train.system import SystemMeter
from vitray.train.whereabouts import ASKING, ENDING, SAVING, Whereabouts


class Epochs:
    """One run's epochs on one rank; ``progress`` is that of the newest report. All ranks call the same."""

    def __init__(
        self,
        feed: Feed,
        reporter: Reporter,
        store: CheckpointStore,
        state: TrainState,
        meter: Meter,
        leaving: Leaving,
        whereabouts: Whereabouts,
        cadence: Cadence,
        progress: Progress,
    ) -> None:
        self._feed, self._ranks, self._state = feed, feed.ranks, state
        self._reporter, self._store, self._meter, self._leaving = reporter, store, meter, leaving
        self._whereabouts, self._cadence = whereabouts, cadence
        self._system = SystemMeter(feed.ranks.device) if feed.ranks.first else None
        self._per_epoch = feed.order.steps_per_epoch
        self.unreported = bool(progress.step and progress.step % self._per_epoch == 0 and progress.so_far is not None)
        """Whether the checkpoint was made when an epoch's steps were done, but not yet its report."""
        self.progress = replace(progress, so_far=None)

    def end(self, step: int) -> bool:
        """Evaluate, report and save after an epoch's last step; whether to go on.

        Raises:
            NotFiniteError: the loss is not finite; every rank raises it.
        """
        feed, ranks, meter, experiment = self._feed, self._ranks, self._meter, self._feed.experiment
        config, total = experiment.train, experiment.train.epochs * self._per_epoch
        self._whereabouts.at(ENDING, step)
        lr = lr_at(step - 1, total_steps=total, steps_per_epoch=self._per_epoch, config=experiment.optim)
        metrics = {"lr": lr, **meter.close_epoch(ranks)}
        check_finite(metrics["train/loss"], "training", step)
        # Retrained on train+val, or prepared without a val split, there is nothing to validate on.
        if config.split == "train" and feed.data.num_samples("val") > 0:
            unreported = replace(self.progress, step=step, so_far=meter.closed)
            batches = self._whereabouts.evaluating(self._saved_if_asked(feed.evaluation("val"), unreported))
            scores = evaluate(averaged_weights(self._state), batches, feed.to_input, ranks)
            metrics |= {f"val/{k}": v for k, v in scores}
            check_finite(metrics["val/loss"], "validation", step)
        if step == total and ranks.first and wants_latency(experiment):
            metrics["latency_ms"] = latency_ms(averaged_weights(self._state), experiment, ranks.device)
        metrics["eval_s"] = meter.lap()
        if experiment.cluster.elastic:
            metrics["world_size"] = ranks.world_size
        if self._system is not None:
            metrics |= self._system.read()
        report = Report(step, step // self._per_epoch, metrics, first_step_at=meter.first_step_at)
        self.progress = _advance(self.progress, report)
        folder = self._save(self.progress)
        report = replace(report, metrics={**metrics, "checkpoint_s": meter.lap()}, checkpoint=folder)
        self._whereabouts.at(ASKING if ranks.first else ENDING)
        return ranks.agree(self._reporter.report(report) if ranks.first else True)

    def save(self, step: int) -> None:
        """A checkpoint of a step in mid-epoch."""
        so_far = self._meter.so_far(self._ranks)
        check_finite(so_far[0] / so_far[1], "training", step)  # nobody wants to go on from there
        self._save(replace(self.progress, step=step, so_far=so_far))

    def _save(self, progress: Progress) -> str:
        self._whereabouts.at(SAVING)
        self._cadence.saved()
        return str(self._store.save(self._state, progress, self._feed.package_info())) if self._ranks.first else ""

    def _saved_if_asked(self, batches: Iterable[Batch], progress: Progress) -> Iterator[Batch]:
        """The same batches. A long evaluation puts at risk what comes before it, and whoever wants the ranks to leave
        might not wait for its end."""
        saved = False
        for batch in batches:
            if not saved and (self._leaving.asked or (self._ranks.first and self._cadence.overdue)):
                self._save(progress)
                saved = True
            yield batch


def averaged_weights(state: TrainState) -> nn.Module:
    """The model to evaluate: with the averaged weights where they are kept."""
    if state.ema is None:
        return state.model
    model = copy.deepcopy(state.model)
    model.load_state_dict(state.ema, strict=False)
    return model


def check_finite(loss: float, which: str, step: int) -> None:
    """``loss`` is that of all ranks, so that all raise together."""
    if not math.isfinite(loss):
        raise NotFiniteError(
            f"the {which} loss is {loss} after step {step}", remedy="lower optim.lr, or raise optim.warmup_epochs"
        )


def _advance(progress: Progress, report: Report) -> Progress:
    kept = report.as_json()
    kept["metrics"] = {key: value for key, value in report.metrics.items() if not key.startswith(SYSTEM)}
    progress = replace(progress, step=report.step, reports=(*progress.reports, kept))
    score = report.metrics.get("val/accuracy")
    if score is not None and (progress.best is None or score > progress.best):
        progress = replace(progress, best=score, best_step=report.step)
    return progress
