"""The job that a mailbox holds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from vitray.train.leaving import Vote
from vitray.train.messages import Ended, Job, Note
from vitray.train.report import Report


@dataclass
class Current:
    """What is known of it, and what waits for its driver."""

    job: Job
    asks_at: frozenset[int] | None = None  # epochs after which the driver decides; None: after every one
    outgoing: deque[Report | Note | Ended] = field(default_factory=deque)
    takers: set[int] = field(default_factory=set)  # ranks that are at work on it
    vote: Vote | None = None  # on the step after which they leave it
    stop_asked: bool = False
    away: bool = False  # all ranks have left it, for other ranks to go on
    left_step: int | None = None  # where they last did
    begun_step: int | None = None  # where ranks last began
    ends: dict[int, int] = field(default_factory=dict)  # of the ranks that are through: their collectives
    failure: BaseException | None = None  # the first
    reported_step: int = -1
    handed_step: int = -1
    decided_step: int = -1
    stop_step: int | None = None  # the report that was answered with a stop
    ended: bool = False

    def hears(self, number: int, attempt: int | None) -> bool:
        """Whether a word of a rank that has this job, in this attempt at it, counts. None: it does not say."""
        return self.job.number == number and attempt in (None, self.job.attempt)

    def forget_reports(self) -> None:
        """What waits but for the end."""
        self.outgoing = deque(said for said in self.outgoing if isinstance(said, Ended))
