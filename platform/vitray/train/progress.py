"""Where a run stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

STATE = "state.json"  # the file of a checkpoint that holds it


@dataclass(frozen=True)
class Progress:
    """Where a run stands: ``step`` optimizer steps are done. No random state: the next step reseeds itself.

    ``reports``: all that were made so far, as :meth:`vitray.train.report.Report.as_json` has them. ``so_far``: what
    :class:`vitray.train.meter.Meter` counted of an epoch that has no report yet.
    """

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    reports: Sequence[Mapping[str, Any]] = ()
    so_far: Sequence[float] | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        so_far = values.get("so_far")
        return cls(
            **{**values, "reports": tuple(values["reports"]), "so_far": None if so_far is None else tuple(so_far)}
        )

    @property
    def score(self) -> float | None:
        """Of the weights of this very step on the validation split, where they were evaluated."""
        last = self.reports[-1] if self.reports else None
        if last is None or last["step"] != self.step or self.so_far is not None:
            return None
        score = last.get("metrics", {}).get("val/accuracy")
        return None if score is None else float(score)
