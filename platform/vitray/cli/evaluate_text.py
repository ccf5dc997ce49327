"""What ``vitray evaluate`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitray.cli.output import grid

if TYPE_CHECKING:
    from vitray.inference.evaluation import Evaluation
    from vitray.inference.score import Score

_MATRIX_UP_TO = 20  # classes; of more, the worst classes and the most frequent mistakes
_LISTED = 15


def text(found: Evaluation) -> str:
    """The page of an evaluation."""
    parts = ["\n".join(_head(found)), _classes(found.score), _confusion(found.score)]
    if found.others:
        parts.append(_sizes(found))
    return "\n\n".join(part for part in parts if part)


def _head(found: Evaluation) -> list[str]:
    score, answers, bins = found.score, found.score.answers, found.score.reliability
    assert answers is not None
    assert bins is not None
    low, high = score.interval
    interval = f"(95 % interval {low:.3f} to {high:.3f})"
    lines = [f"accuracy {score.accuracy:.4f} {interval}, {score.samples:,} images of {score.split}"]
    if found.top_k:
        lines.append(f"top-{found.top_k} accuracy {answers.top_k_accuracy(found.top_k):.4f}")
    gap = bins.mean_confidence - score.accuracy
    verdict = "too sure of itself" if gap > 0 else "less sure than it could be"
    lines.append(
        f"calibration: ECE {bins.ece:.4f} ({len(bins.counts)} bins), NLL {answers.nll:.4f}, Brier "
        f"{answers.brier_score:.4f}; mean confidence {bins.mean_confidence:.4f}, {verdict}"
    )
    if score.left_out:
        lines.append(f"{score.left_out:,} damaged images did not count: vitray data verify names them")
    lines.append(f"{score.images_per_s:,.0f} images/s, decoding included")
    return lines


def _classes(score: Score) -> str:
    rows = [
        (name, f"{c.samples:,}", f"{c.accuracy:.4f}", f"{c.interval[0]:.3f} to {c.interval[1]:.3f}")
        for name, c in score.by_class.items()
    ]
    headers = ("class", "images", "accuracy", "95 % interval")
    if len(rows) <= _MATRIX_UP_TO:
        return grid(rows, headers)
    worst = sorted(rows, key=lambda row: float(row[2]))[:_LISTED]
    return f"the {_LISTED} worst of {len(rows)} classes (--output json has all):\n" + grid(worst, headers)


def _confusion(score: Score) -> str:
    if len(score.classes) <= _MATRIX_UP_TO:
        rows = [(name, *counts) for name, counts in zip(score.classes, _dotted(score), strict=True)]
        return "true class (rows) and predicted class (columns), images:\n" + grid(rows, ("", *score.classes))
    pairs = score.confused(_LISTED)
    return "most confused:\n" + grid(pairs, ("true", "predicted", "images")) if pairs else ""


def _dotted(score: Score) -> list[list[str]]:
    return [[str(count) if count else "." for count in row] for row in score.confusion.tolist()]


def _sizes(found: Evaluation) -> str:
    rows = []
    for score in (found.score, *found.others):
        answers, bins, (low, high) = score.answers, score.reliability, score.interval
        assert answers is not None
        assert bins is not None
        name = "x".join(map(str, score.size or ())) + (" (its own)" if score is found.score else "")
        interval = f"{low:.3f} to {high:.3f}"
        rows.append(
            (
                name,
                f"{score.accuracy:.4f}",
                interval,
                f"{answers.nll:.4f}",
                f"{bins.ece:.4f}",
                f"{score.images_per_s:,.0f}",
            )
        )
    headers = ("size", "accuracy", "95 % interval", "NLL", "ECE", "images/s")
    return "at other image sizes, positions interpolated:\n" + grid(rows, headers)
