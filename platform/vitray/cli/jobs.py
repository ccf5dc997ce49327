"""``vitray jobs``: submit commands to a Ray cluster, look at them, stop them, wait for them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from vitray.cli.jobs_follow import Looking, cluster_option, detached, end_of, follow_to_end, outcome
from vitray.cli.jobs_submit import submit
from vitray.cli.output import age, emit, grid, note, output_option
from vitray.errors import EXIT_INTERRUPTED
from vitray.masking import public

if TYPE_CHECKING:
    from vitray.cluster.job_records import Job

_ENDING_S = 15.0  # beyond a job's own time to stop, for Ray to notice


@click.group()
def jobs() -> None:
    """Submit the same commands to a Ray cluster, and follow them.

    --address, RAY_API_SERVER_ADDRESS or RAY_ADDRESS names the cluster: by its dashboard (http://HEAD:8265) or its head
    node (HEAD:6379). A JOB is its id, the beginning of one, or its name.
    """


jobs.add_command(submit)
_job = click.argument("job")


def _looking(address: str | None) -> Looking:
    from vitray.cluster.job_client import find_dashboard

    return Looking(find_dashboard(address), address)


@jobs.command(name="list")
@cluster_option
@output_option
def list_(address: str | None, output: str) -> None:
    """The jobs of the cluster, ours and others', newest first, and what they wait for."""
    from vitray.cluster import jobs as cluster_jobs
    from vitray.cluster.job_room import Free, waits_for

    looking = _looking(address)
    found = cluster_jobs.jobs(looking.dashboard)
    free = Free.now(looking.dashboard) if any(not job.over for job in found) else None
    facts = [_facts(job) | {"waits_for": waits_for(looking.dashboard, job, free)} for job in found]
    if not found:
        note(f"no jobs on {looking.dashboard.url}; submit one with: vitray jobs submit train CONFIG")
    headers = ("job", "name", "kind", "status", "age", "took", "waits for")
    rows = [_row(job, fact["waits_for"]) for job, fact in zip(found, facts, strict=True)]
    emit(facts, output, table=lambda: grid(rows, headers) if rows else "")


@jobs.command()
@_job
@cluster_option
@output_option
def status(job: str, address: str | None, output: str) -> None:
    """How JOB is: what it waits for, or how it ended and how to go on."""
    from vitray.cluster import jobs as cluster_jobs
    from vitray.cluster.job_room import waits_for
    from vitray.errors import VitrayError

    looking = _looking(address)
    found = cluster_jobs.find(looking.dashboard, job)
    facts = _facts(found) | {
        "waits_for": waits_for(looking.dashboard, found),
        "goes_on_with": cluster_jobs.goes_on_with(looking.dashboard, found),
        "error": None,
    }
    if found.over and found.exit_code not in (0, EXIT_INTERRUPTED):
        try:
            log = cluster_jobs.log_of(looking.dashboard, found)
        except VitrayError:  # with its node
            log = ""
        facts["error"] = cluster_jobs.last_error(found, log)
    emit(facts, output, table=lambda: _text(found, facts, looking))


@jobs.command()
@_job
@click.option("-f", "--follow", is_flag=True, help="Until it ends; exits with its code. Ctrl-C leaves it running.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="The last N lines only.")
@cluster_option
def logs(job: str, follow: bool, tail: int | None, address: str | None) -> None:
    """What JOB has printed."""
    from vitray.cluster import jobs as cluster_jobs

    looking = _looking(address)
    found = cluster_jobs.find(looking.dashboard, job)
    if follow:
        sys.exit(follow_to_end(looking, found, tail=tail))
    sys.stdout.write(cluster_jobs.log_of(looking.dashboard, found, tail=tail))


@jobs.command()
@_job
@click.option("--no-wait", is_flag=True, help="Do not wait until it has ended.")
@cluster_option
def stop(job: str, no_wait: bool, address: str | None) -> None:
    """Stop JOB: it saves a checkpoint first, and can be resumed."""
    from vitray.cluster import job_memory, job_watch
    from vitray.cluster import jobs as cluster_jobs

    looking = _looking(address)
    found = cluster_jobs.find(looking.dashboard, job)
    if found.status == "PENDING":
        note(f"{found.id} has not begun yet, and is stopped when it has")
    if found.status == "LOST":
        job_memory.forget([found.id])
        note(f"{found.id} {outcome(found)}; it is no longer listed")
        return
    if not job_watch.stop(looking.dashboard, found):
        note(f"{found.id} had ended before: {outcome(cluster_jobs.again(looking.dashboard, found))}")
        return
    note(f"{found.id} is stopping, and saves a checkpoint if it trains")
    if no_wait:
        return
    try:
        found = job_watch.wait(looking.dashboard, found, tell=note)
    except KeyboardInterrupt:
        note(f"\nit goes on stopping: {looking.command('status', found.id)}")
        sys.exit(EXIT_INTERRUPTED)
    end_of(looking, found)


@jobs.command()
@_job
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after so long, with exit 1.")
@cluster_option
@output_option
def wait(job: str, timeout: float | None, address: str | None, output: str) -> None:
    """Wait until JOB has ended, and exit with its code."""
    from vitray.cluster import job_watch
    from vitray.cluster import jobs as cluster_jobs

    looking = _looking(address)
    found = cluster_jobs.find(looking.dashboard, job)
    try:
        found = job_watch.wait(looking.dashboard, found, timeout_s=timeout, tell=note)
    except KeyboardInterrupt:
        note(f"\n{detached(looking, found)}")
        sys.exit(EXIT_INTERRUPTED)
    if output == "json":
        emit(_facts(found), output, table=str)
    sys.exit(end_of(looking, found))


def _facts(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "kind": job.kind,
        "status": job.status.lower(),
        "exit_code": job.exit_code if job.over else None,
        "started": job.started,
        "ended": job.ended,
        "seconds": job.seconds,
        "command": public(job.entrypoint),
        "vitray": job.metadata.get("vitray.version"),
        "message": public(job.message) if job.over and job.status != "FAILED" else None,
    }


def _row(job: Job, waits: str | None) -> tuple[object, ...]:
    took = (
        "" if job.status == "LOST" else f"{job.seconds:.0f} s" if job.seconds < 600 else f"{job.seconds / 60:.0f} min"
    )
    shown = job.status.lower() if not job.over or job.status != "FAILED" else f"failed ({job.exit_code})"
    return job.id, job.name or "", job.kind or "other", shown, age(job.started), took, waits or ""


def _text(job: Job, facts: dict[str, Any], looking: Looking) -> str:
    lines = [f"{job.id}: {outcome(job) if job.over else f'{job.status.lower()} since {job.seconds:.0f} s'}"]
    lines += [f"command: {facts['command']}"]
    if facts["waits_for"]:
        lines.append(f"waits for {facts['waits_for']}")
    if facts["error"]:
        lines.append(facts["error"])
    if facts["goes_on_with"]:
        at = looking.at if facts["goes_on_with"].startswith("vitray ") else ""
        lines.append(f"go on with: {facts['goes_on_with']}{at}")
    if not job.over:
        lines.append(f"next: {looking.command('logs -f', job.id)}")
    return "\n".join(lines)
