"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from vitray.errors import VitrayError
from vitray.masking import masked

OK, WARNING, BLOCKS = "ok", "warning", "blocks"


@dataclass(frozen=True)
class Finding:
    """One check, of one machine or of all together.

    ``state``: ok, warning (it works, worse than it could, or soon no more) or blocks. ``where``: the machine.
    ``remedy`` is there unless the state is ok.
    """

    check: str
    state: str
    what: str
    where: str = ""
    remedy: str | None = None

    def at(self, machine: str) -> Finding:
        """The same, found on a machine."""
        return replace(self, where=machine)

    def as_json(self) -> dict[str, str | None]:
        """Fit for others to read: no credentials."""
        return {k: v and masked(v) for k, v in asdict(self).items()}


def ok(check: str, what: str) -> Finding:
    return Finding(check, OK, what)


def warning(check: str, what: str, remedy: str) -> Finding:
    return Finding(check, WARNING, what, remedy=remedy)


def blocks(check: str, what: str, remedy: str) -> Finding:
    return Finding(check, BLOCKS, what, remedy=remedy)


def refused(check: str, error: VitrayError) -> Finding:
    """What a command would end with."""
    what = f"{error.where}: {error.what}" if error.where else error.what
    return blocks(check, what, error.remedy or "see what it says")
