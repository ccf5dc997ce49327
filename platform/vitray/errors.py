"""One exception family: what is wrong, where, and what to do about it.

The command line maps the family to exit codes: 1 failed, 2 the user must change something, 130 interrupted and
resumable. Errors for users carry a remedy; broken invariants are assertions, not members of this family.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_FAILED = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


class VitrayError(Exception):
    """Something failed although the request was right. ``exit_code`` is what the command line returns.

    ``failure`` is the class of the failure in a word: it says whether to try again, and what a sweep counts.

    Args:
        what: one sentence, what is wrong.
        where: file, key, row or host it concerns.
        remedy: what to do next.
    """

    exit_code = EXIT_FAILED
    failure = "other"

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  -> {self.remedy}" if self.remedy else head

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and these errors cross Ray's processes.
        return _rebuild, (type(self), self.what, self.where, self.remedy)


def _rebuild(cls: type[VitrayError], what: str, where: str | None, remedy: str | None) -> VitrayError:
    return cls(what, where=where, remedy=remedy)


class UserError(VitrayError, ValueError):
    """The user must change something: a value, a path, a name, a resource."""

    exit_code = EXIT_USER


class ConfigError(UserError):
    """A configuration that cannot be meant: unknown key, value out of range, parts that do not fit."""

    failure = "config"


class DataError(UserError):
    """A dataset or an image that is missing, damaged or of the wrong kind."""

    failure = "data"


class ResourceError(UserError):
    """More is asked of the machine or cluster than it has."""

    failure = "resources"


class TrackingError(UserError):
    """The tracking server or the model registry does not have what was asked for, or does not answer."""

    failure = "tracking"


class StoreAwayError(TrackingError):
    """It does not answer, and may by and by: what is asked of it can be asked again."""


class CheckpointError(VitrayError):
    """A checkpoint that is incomplete or whose bytes are not those that were written."""

    failure = "checkpoint"


class TrainingError(VitrayError):
    """An experiment ended without a result; which of its classes says why."""


class OutOfMemoryError(TrainingError):
    """A rank, or its GPU, had no memory left. Smaller micro-batches may fit."""

    failure = "oom"


class NotFiniteError(TrainingError):
    """The loss is NaN or infinite. The same again would end the same."""

    failure = "nan"


class LostWorkersError(TrainingError):
    """Ranks died, through no fault of the experiment's: it can go on from its newest checkpoint."""

    failure = "lost"


class HangingError(LostWorkersError):
    """Ranks stood still, or were not heard of, for longer than ``cluster.hang_timeout_s``."""

    failure = "hanging"


class CodeError(TrainingError):
    """Something raised what nobody expected. The same again would end the same."""

    failure = "code"


class InterruptedRunError(VitrayError):
    """Stopped by the user; ``remedy`` holds the command that goes on."""

    exit_code = EXIT_INTERRUPTED
    failure = "interrupted"


def failure_class(error: BaseException) -> str:
    """The ``failure`` of any error: ``oom``, ``nan``, ``lost``, ``data``, ...; ``code`` where it is none of ours."""
    if isinstance(error, MemoryError):
        return OutOfMemoryError.failure
    return error.failure if isinstance(error, VitrayError) else CodeError.failure


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the closest known names, or lists all of them when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(names) if names else "there are none"
