"""From the command to the first line of the job's own log, on a running local head: `vitray jobs submit train --follow`
against `ray job submit` of jobs/train.py with the same config and the same code sent along.

Each round has a head of its own, so that the first submission of an arm sends the code and the machine compiles it, and
those after it find it there. The job is a training that is to go on with a run that is not there: it prints its first
line, says so and ends.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).parent.parent))
from ray_head import ROOT, Head

AGAIN = 3  # submissions after the first
GOAL_S = 5.0
FIRST_LINE = "vitray "  # of the driver: its version and what it does


@dataclass
class Times:
    """Of one arm: seconds to the first line, and the CPU-seconds of the command."""

    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def ours(head: Head, folder: Path) -> list[str]:
    place = ("--address", head.url, "--home", str(folder / "home"))
    return ["vitray", "jobs", "submit", "train", str(folder / "c.yaml"), "--resume", "none", "--follow", *place]


def rays(head: Head, folder: Path) -> list[str]:
    environment = {"py_modules": [str(ROOT / "platform/vitray")], "env_vars": {"VITRAY_HOME": str(folder / "home")}}
    sent = ("--working-dir", str(folder / "sent"), "--runtime-env-json", json.dumps(environment))
    return [
        "ray",
        "job",
        "submit",
        "--address",
        head.url,
        *sent,
        "--",
        "python",
        "train.py",
        "c.yaml",
        "--resume",
        "none",
    ]


def seconds(head: Head, command: list[str]) -> tuple[float, float]:
    """Until the first line, and the CPU-seconds of the whole command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=head.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines, took = [], None
    for line in process.stdout:
        lines.append(line)
        if took is None and line.startswith(FIRST_LINE):
            took = time.perf_counter() - start
    process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert took is not None, "".join(lines)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def round_of(arms: dict[str, Times], folder: Path, again: int) -> None:
    head = Head()
    head.start()
    try:
        for number in range(1 + again):
            for name, make in (("ours", ours), ("rays", rays)):
                took, cpu = seconds(head, make(head, folder))
                harness.say(f"{name}, submission {number + 1}: {took:.2f} s, {cpu:.2f} CPU-seconds")
                (arms[name].later if number else arms[name].first).append(took)
                arms[name].cpu.append(cpu)
    finally:
        head.stop()


def main() -> None:
    arguments = harness.arguments(__doc__ or "").parse_args()
    arms = {"ours": Times(), "rays": Times()}
    with tempfile.TemporaryDirectory(prefix="vitray-submit-") as place:
        folder = Path(place)
        (folder / "sent").mkdir()
        for config in (folder / "c.yaml", folder / "sent" / "c.yaml"):
            config.write_text(
                "data: {path: builtin:digits}\nmodel: {patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}\n"
            )
        (folder / "sent" / "train.py").write_text((ROOT / "jobs/train.py").read_text())
        for _ in range(1 if arguments.quick else 3):
            round_of(arms, folder, 1 if arguments.quick else AGAIN)
    mine, peer, name = arms["ours"], arms["rays"], "ray job submit"
    rows = [
        harness.less_is_better("first submission to first line", "s", mine.first, peer.first, name),
        harness.less_is_better("later ones", "s", mine.later, peer.later, name),
        harness.less_is_better("CPU of the command", "CPU-s", mine.cpu, peer.cpu, name),
        harness.less_is_better(
            "all, against what a person may wait", "s", mine.first + mine.later, [GOAL_S], "5 s", 1.0
        ),
    ]
    harness.publish("submit_latency", rows, arguments.output, harness.versions("ray", "vitray"))


if __name__ == "__main__":
    main()
