"""What the names in a folder of checkpoints say, so that one listing tells which of them count.

``step-<step>-<attempt>-<save>-<writer>`` is a checkpoint: the ``save``-th of the attempt. Attempts are numbered by the
driver and rise for as long as the run lives, over restarts and resumes; ``writer`` is drawn anew for each.
``attempt-<attempt>-<writer>`` says that an attempt has begun: older ones write and remove nothing more. With
``-from-<step>`` it is a fence: what older attempts have saved, or may yet save, past that step does not count. So a
writer that was cut off and comes back is never read. Nothing relies on clocks, on renaming, or on the times of files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from vitray.data.folder import Folder

COMMIT = "commit.json"
_STEP = re.compile(r"^step-(\d+)(?:-(\d+)-(\d+))?-([0-9a-f]{8})$")  # without attempt: of vitray 0.1
_ATTEMPT = re.compile(r"^attempt-(\d+)-([0-9a-f]{8})(?:-from-(\d+))?$")
_STAGED = re.compile(r"^\.step-\d+-[0-9a-f]{8}\..+$")  # what vitray 0.1 wrote a package in


@dataclass(frozen=True, order=True)
class Attempt:
    """Two drivers that give out the same number differ in ``writer``: the greater one counts."""

    number: int
    writer: str

    @property
    def claim(self) -> str:
        """The name of the file that says that it has begun."""
        return f"attempt-{self.number:06d}-{self.writer}"

    def fence(self, step: int) -> str:
        """The name of the file that says from which step it goes on."""
        return f"{self.claim}-from-{step:09d}"


@dataclass(frozen=True)
class Name:
    """The name of a checkpoint. ``text`` is the folder's."""

    step: int
    attempt: Attempt
    save: int
    text: str

    @classmethod
    def of(cls, step: int, attempt: Attempt, save: int) -> Name:
        return cls(step, attempt, save, f"step-{step:09d}-{attempt.number:06d}-{save:06d}-{attempt.writer}")

    @classmethod
    def read(cls, text: str) -> Name | None:
        found = _STEP.match(text)
        if found is None:
            return None
        step, attempt, save, writer = found.groups()
        return cls(int(step), Attempt(int(attempt or 0), writer), int(save or 0), text)

    @property
    def age(self) -> tuple[int, Attempt, int]:
        """The greater, the newer."""
        return self.step, self.attempt, self.save


@dataclass(frozen=True)
class History:
    """What a listing of a folder of checkpoints says.

    ``committed``: checkpoints that count, newest first. ``stale``: committed ones that a fence rules out. ``begun``:
    folders without a commit record. ``staged``: other leftovers. ``attempts``: that have begun, the newest first.
    ``spent``: what is said of attempts, and newer ones say, too.
    """

    committed: tuple[Name, ...] = ()
    stale: tuple[Name, ...] = ()
    begun: tuple[Name, ...] = ()
    staged: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    spent: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Folder) -> History:
        """Raises OSError."""
        if folder.on_disk:
            entries = folder.entries()
            has = {entry for entry in entries if Path(folder.base, entry, COMMIT).is_file()}
        else:
            files = folder.files()
            entries = sorted({file.partition("/")[0] for file in files})
            has = {file.removesuffix(f"/{COMMIT}") for file in files if file.endswith(f"/{COMMIT}")}
        said = [(entry, found) for entry in entries if (found := _ATTEMPT.match(entry))]
        # Of a claim no fence is known yet: it rules out nothing.
        marks = [(e, Attempt(int(f[1]), f[2]), math.inf if f[3] is None else int(f[3])) for e, f in said]
        fences = [(attempt, step) for _, attempt, step in marks]
        names = [name for entry in entries if (name := Name.read(entry)) is not None]
        whole = sorted((name for name in names if name.text in has), key=lambda n: n.age, reverse=True)
        stale = {n for n in whole if any(n.attempt < attempt and n.step > step for attempt, step in fences)}
        return cls(
            tuple(n for n in whole if n not in stale),
            tuple(n for n in whole if n in stale),
            tuple(n for n in names if n.text not in has),
            tuple(entry for entry in entries if _STAGED.match(entry)),
            tuple(sorted({attempt for attempt, _ in fences}, reverse=True)),
            tuple(e for e, mine, step in marks if any(other > mine and least <= step for other, least in fences)),
        )

    @property
    def latest(self) -> int:
        """The greatest number that any attempt has had: those of checkpoints count, too."""
        names = (*self.committed, *self.stale, *self.begun)
        return max((a.number for a in (*self.attempts, *(n.attempt for n in names))), default=0)

    def newer_than(self, attempt: Attempt) -> Attempt | None:
        """An attempt that has begun after this one."""
        return next((other for other in self.attempts if other > attempt), None)
