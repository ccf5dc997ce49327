"""Following a job from the terminal: its log as it comes, a way out that leaves it running, and its exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from vitray.cli.options import Command, insecure_option
from vitray.cli.output import note
from vitray.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from vitray.cluster.job_client import Dashboard
    from vitray.cluster.job_records import Job


def cluster_option(command: Command) -> Command:
    """``--address`` of a cluster that takes jobs, and ``--insecure``."""
    named = click.option(
        "--address",
        metavar="URL",
        help="The cluster: http://HEAD:8265 or HEAD:6379.  [default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS]",
    )
    return named(insecure_option(command))


@dataclass(frozen=True)
class Looking:
    """A cluster's dashboard, and the address that somebody typed to get there."""

    dashboard: Dashboard
    address: str | None

    def command(self, verb: str, job: str) -> str:
        """What to type to look at a job again."""
        return f"vitray jobs {verb} {job}{self.at}"

    @property
    def at(self) -> str:
        """The address as a word of a command, where one was typed."""
        return f" --address {self.address}" if self.address else ""

    def commands(self, job: str) -> dict[str, str]:
        """What to type next, by verb."""
        return {verb.split()[0]: self.command(verb, job) for verb in ("logs -f", "status", "stop", "wait")}


def follow_to_end(looking: Looking, job: Job, *, tail: int | None = None) -> int:
    """Print a job's log on stdout until it ends, and how it ended on stderr; returns its exit code.

    Ctrl-C leaves the job running, and says so.
    """
    from vitray.cluster.job_watch import follow, now

    try:
        for text in follow(looking.dashboard, job, tail=tail, tell=note):
            sys.stdout.write(text)
            sys.stdout.flush()
        job = now(looking.dashboard, job, tell=note)
    except KeyboardInterrupt:
        note(f"\n{detached(looking, job)}")
        return EXIT_INTERRUPTED
    return end_of(looking, job)


def detached(looking: Looking, job: Job) -> str:
    """What is said to somebody who no longer looks."""
    lines = [f"{job.id} goes on without you; look again, or stop it:"]
    return "\n".join(lines + [f"  {looking.command(verb, job.id)}" for verb in ("logs -f", "stop")])


def end_of(looking: Looking, job: Job) -> int:
    """Say how a job ended, and how to go on; returns its exit code."""
    from vitray.cluster import job_memory
    from vitray.cluster.jobs import goes_on_with

    code = job.exit_code
    if job.status != "LOST":
        job_memory.forget([job.id])
    note(f"{job.id}: {outcome(job)}")
    if further := goes_on_with(looking.dashboard, job):
        note(f"go on with: {further}{looking.at if further.startswith('vitray ') else ''}")
    return code


def outcome(job: Job) -> str:
    """How a job ended, in a few words."""
    took = f"after {job.seconds:.0f} s"
    match job.status:
        case "SUCCEEDED":
            return f"done {took}"
        case "STOPPED":
            return f"stopped {took}"
        case "LOST":
            return f"lost: {job.message}"
        case _ if job.code is None:
            return (
                f"lost {took}: {job.message.strip().splitlines()[0] if job.message else 'the cluster does not say why'}"
            )
        case _ if job.code == EXIT_INTERRUPTED:
            return f"interrupted {took}"
        case _:
            return f"failed {took} with exit code {job.code}"
