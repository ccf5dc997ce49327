"""Prints the table of README's "What it survives" from what ``make faults`` recorded; 1 when a row is missing or fell
short.

``stock.json`` beside this has what stock Ray and MLflow did under the same fault: ``{"ROW": {"outcome": "...",
"source": "the benchmark that ran it, or what says so", "date": "..."}}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[2] / "build" / "faults"
STOCK = Path(__file__).parent / "stock.json"
SOAK = 15  # make soak runs it, apart from the others


class Row(NamedTuple):
    fault: str
    must_hold: str


ROWS = {
    1: Row("SIGKILL of a rank, a data task, the mailbox, the controller or a trial's actor, at random moments",
           "goes on by itself; no sample missing or twice; final weights bitwise those of an undisturbed run"),
    2: Row("SIGKILL of the driver, 10 times during a sweep, then `resume`",
           "one MLflow run a trial, none RUNNING, at most one report interval again, the same points"),
    3: Row("SIGKILL at 100 random moments of checkpoint writing",
           "each resumes from the newest complete one; nothing stray after the next save"),
    4: Row("bit flips, truncation, missing files in 100 checkpoints",
           "all noticed before a weight is loaded; falls back one generation and says so"),
    5: Row("a rank stopped (SIGSTOP), a collective that hangs", "training again within 60 s"),
    6: Row("a node killed every 2 minutes, of three (emulated)",
           "goodput at least 0.85, recovery p95 at most 45 s, at most one checkpoint interval lost"),
    7: Row("the head restarted (0, 20, 60 s) with a submitted job",
           "`jobs` shows it; one command, or none, goes on; one logical run"),
    8: Row("network cut between two hosts (namespaces) for 60 s",
           "an old writer's commit is never read; goes on after the cut"),
    9: Row("disk full while checkpointing, spooling, spilling",
           "last good state whole; the error names path and need; goes on when there is room"),
    10: Row("2 -> 1 -> 2 ranks in mid-epoch", "the same samples in every step; loss within 1e-5, later 1e-3"),
    11: Row("20 trials: 1 out of memory, 1 NaN, 1 raising, 1 hanging",
            "16 finish untouched; each failure named by class; memory flat"),
    12: Row("MLflow killed for 60 s, slow (5 s an answer), answering 500, emptied",
            "nothing lost, nothing twice; training not slowed by more than 2 %"),
    13: Row("1 % damaged images of eight kinds; shards cut at a row group, or swapped",
            "the quarantine is exact; the run stops before use, with the shard's name"),
    14: Row("preemption notice 30 s before a kill", "checkpoint committed in time, no step lost, 10 of 10"),
    15: Row("soak: a random mix of these over a looping sweep",
            "no violation, no intervention, flat memory, no zombies"),
}  # fmt: skip


def main() -> int:
    stock = json.loads(STOCK.read_text()) if STOCK.is_file() else {}
    say("| # | fault | must hold | what came out | stock Ray and MLflow |")
    say("|---|---|---|---|---|")
    short, machines = [], set()
    for number, row in ROWS.items():
        results = recorded(number)
        machines |= {f"{result['date']}, {result['cpus']} CPUs" for result in results}
        theirs = stock.get(str(number), {}).get("outcome", "")
        cells = [str(number), row.fault, row.must_hold, outcome(results), theirs]
        say("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if not all(result["held"] for result in results) or (not results and number != SOAK):
            short.append(number)
    say("")
    say(f"Run on: {'; '.join(sorted(machines)) or 'nothing was run'}.")
    if short:
        missing = [number for number in short if not recorded(number)]
        sys.stderr.write(f"rows that were not run: {missing or 'none'}; ")
        sys.stderr.write(f"rows that fell short: {[number for number in short if number not in missing] or 'none'}\n")
    return 1 if short else 0


def recorded(number: int) -> list[dict[str, Any]]:
    """What a row's tests recorded, in the order in which they ran."""
    file = RESULTS / f"row-{number:02d}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def outcome(results: list[dict[str, Any]]) -> str:
    if not results:
        return "not run"
    return "; ".join(("" if result["held"] else "**fell short**: ") + result["outcome"] for result in results)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
