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

    Args:
        what: one sentence, what is wrong.
        where: file, key, row or host it concerns.
        remedy: what to do next.
    """

    exit_code = EXIT_FAILED

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


class DataError(UserError):
    """A dataset or an image that is missing, damaged or of the wrong kind."""


class ResourceError(UserError):
    """More is asked of the machine or cluster than it has."""


class TrackingError(UserError):
    """The tracking server or the model registry does not have what was asked for, or does not answer."""


class CheckpointError(VitrayError):
    """A checkpoint that is incomplete or whose bytes are not those that were written."""


class TrainingError(VitrayError):
    """An experiment ended without a result (NaN loss, code error, lost workers)."""


class InterruptedRunError(VitrayError):
    """Stopped by the user; ``remedy`` holds the command that goes on."""

    exit_code = EXIT_INTERRUPTED


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the closest known names, or lists all of them when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(names) if names else "there are none"
