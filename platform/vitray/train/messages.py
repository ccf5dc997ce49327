"""What goes through a mailbox between a driver and its ranks, besides reports."""

from __future__ import annotations

from dataclasses import dataclass

from vitray.experiment import Experiment


@dataclass(frozen=True)
class Job:
    """One experiment to run. ``number`` counts the jobs of a group, ``attempt`` the times ranks took this one.

    ``place``: of its checkpoints ("": in ``run_dir``). ``earlier``: attempts at this run before this driver's.
    """

    number: int
    experiment: Experiment
    run_dir: str
    attempt: int = 1
    known_epoch: int | None = None
    place: str = ""
    earlier: int = 0


@dataclass(frozen=True)
class Heard:
    """What a driver knows of a job when it offers it again, to another mailbox.

    ``step``: of the newest report that it has; ``decided``: of the newest that it has answered; ``stopped``: with a
    stop. ``losses``: times in a row that ranks were lost without a report in between. ``place`` and ``earlier`` are the
    :class:`Job`'s.
    """

    step: int = -1
    decided: int = -1
    stopped: bool = False
    losses: int = 0
    attempt: int = 1
    place: str = ""
    earlier: int = 0


@dataclass(frozen=True)
class Ended:
    """How a job ended: ``error`` is None when it ran to its end or was stopped.

    ``saved_step``: it was asked to stop at once, and its newest checkpoint is that of this step.
    """

    error: BaseException | None = None
    saved_step: int | None = None


@dataclass(frozen=True)
class Note:
    """Something for people: that other ranks go on from ``step``, or (None) what is waited for."""

    text: str
    step: int | None = None


@dataclass(frozen=True)
class RankEnd:
    """Where one of ``world_size`` ranks left a job: after how many collectives of its group.

    ``attempt``: the one at the job that it took part in; None: it does not say.
    """

    rank: int
    world_size: int
    collectives: int = 0
    attempt: int | None = None
