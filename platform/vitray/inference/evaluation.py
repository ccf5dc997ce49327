"""An evaluation as others find it again: its numbers as metrics and JSON, and one run in the tracker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitray import __version__
from vitray.data.images import ShardedImages
from vitray.inference.score import Score, Size
from vitray.masking import public
from vitray.tracking.tracker import DatasetInput, Tracker
from vitray.train.dataset_input import as_input
from vitray.train.provenance import provenance

_FACTS = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """A model on a split, at its own size and at others.

    Args:
        model: as the user named it; ``version``: what that meant, as ``models:/NAME/3`` (None: a folder).
        model_digest: of the model's weights and description.
        score: at the model's own size, with answers.
        others: at other sizes.
        top_k: how many classes may hold the true one for top-k accuracy; None where there are no more classes.
    """

    model: str
    version: str | None
    model_digest: str
    data: ShardedImages
    score: Score
    others: Sequence[Score] = ()
    top_k: int | None = 5

    @property
    def key(self) -> str:
        """The same for the same model, data, split and sizes, so that evaluating twice gives one run."""
        sizes = sorted(shown(score.size) for score in self.others)
        parts = [self.model_digest, self.data.fingerprint, self.score.split, *sizes]
        return f"evaluation-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}"

    @property
    def name(self) -> str:
        """For people: model, dataset and split."""
        model = (self.version or Path(self.model.partition("?")[0]).name).removeprefix("models:/")
        return f"{model} on {as_input(self.data).name} {self.score.split}"

    def metrics(self) -> dict[str, float]:
        """Under the names of the split: ``test/accuracy``, ``test/ece``, ``test/size_16x16/accuracy``, ..."""
        split = self.score.split.replace("+", "_")  # MLflow allows no plus
        low, high = self.score.interval
        bounds = {"accuracy_low": low, "accuracy_high": high}
        found = {**_numbers(self.score, self.top_k), **bounds, "samples": float(self.score.samples)}
        for other in self.others:
            found |= {f"size_{shown(other.size)}/{name}": value for name, value in _numbers(other, self.top_k).items()}
        return {f"{split}/{name}": value for name, value in found.items()}

    def as_json(self) -> dict[str, Any]:
        """Everything but the picture."""
        score, low_high = self.score, list(self.score.interval)
        calibration = score.reliability
        assert calibration is not None, "an evaluation keeps the answers"
        return {
            "model": public(self.model),
            "version": self.version,
            "model_digest": self.model_digest,
            "data": self.data.store.shown,
            "dataset_fingerprint": self.data.fingerprint,
            "split": score.split,
            "samples": score.samples,
            "left_out": score.left_out,
            "size": list(score.size or ()),
            "interval": low_high,
            **_numbers(score, self.top_k),
            "per_class": score.per_class,
            "by_class": {
                name: {"samples": c.samples, "correct": c.correct, "accuracy": c.accuracy, "interval": list(c.interval)}
                for name, c in score.by_class.items()
            },
            "confusion": score.confusion.tolist(),
            "confused": [{"true": a, "predicted": b, "images": n} for a, b, n in score.confused(20)],
            "reliability": {
                "edges": calibration.edges.tolist(),
                "counts": calibration.counts.tolist(),
                "accuracy": [None if v != v else v for v in calibration.accuracy.tolist()],
                "confidence": [None if v != v else v for v in calibration.confidence.tolist()],
            },
            "images_per_s": score.images_per_s,
            "sizes": [
                {
                    "size": list(other.size or ()),
                    "interval": list(other.interval),
                    **_numbers(other, self.top_k),
                    "images_per_s": other.images_per_s,
                }
                for other in (score, *self.others)
            ],
        }

    def log(self, tracker: Tracker, experiment: str, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        """One run of kind ``evaluation``, with the JSON and what else is in ``folder`` (pictures) as artifacts.

        Raises:
            TrackingError: another living process logs this very evaluation.
        """
        split = self.score.split
        tracker.start_run(
            self.key,
            name=self.name,
            experiment=experiment,
            params={
                "model": self.version or public(self.model),
                "data": self.data.store.shown,
                "split": split,
                "sizes": ", ".join(shown(score.size) for score in (self.score, *self.others)),
            },
            tags={
                "vitray.kind": "evaluation",
                "vitray.version": __version__,
                "vitray.model": public(self.model),
                "vitray.model_version": self.version or "",
                "vitray.model_digest": self.model_digest,
                "vitray.dataset_fingerprint": self.data.fingerprint,
                "vitray.split": split,
                **provenance(),
                **(extra or {}),
            },
        )
        tracker.log_input(self.key, self._input())
        tracker.log_metrics(self.key, {**self.metrics(), "images_per_s": self.score.images_per_s}, step=0)
        (folder / _FACTS).write_text(json.dumps(self.as_json(), indent=1), encoding="utf-8")
        for path in sorted(folder.iterdir()):
            tracker.log_artifact(self.key, path)
        tracker.end_run(self.key, "FINISHED")

    def _input(self) -> DatasetInput:
        return as_input(self.data, "evaluation")


def _numbers(score: Score, top_k: int | None) -> dict[str, float]:
    answers, calibration = score.answers, score.reliability
    assert answers is not None and calibration is not None  # noqa: PT018  # both or none
    top = {f"top{top_k}_accuracy": answers.top_k_accuracy(top_k)} if top_k else {}
    return {
        "accuracy": score.accuracy,
        **top,
        "nll": answers.nll,
        "brier": answers.brier_score,
        "ece": calibration.ece,
        "mean_confidence": calibration.mean_confidence,
    }


def shown(size: Size | None) -> str:
    """``16x12``: height, then width."""
    return "x".join(map(str, size or ()))
