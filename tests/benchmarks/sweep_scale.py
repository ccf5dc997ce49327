"""A sweep of 1,000 trials of one step each: does the thousandth cost more than the hundredth?

Measured in the driver, which conducts, tracks and writes down: CPU and wall time a trial around the 100th and at the
end, its memory and that of the ranks. Then MLflow's server is started on the store, and the requests that the page of
the sweep's run makes are timed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import psutil

PAGE_S = 2.0  # goal: the page of the sweep opens in that


class Watch:
    """A display that notes, as trials are added, what the driver has spent so far."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float, float]] = []  # wall, CPU of the loop's thread, CPU of the process; by trial
        self.memory: dict[int, tuple[int, int]] = {}  # by trial: RSS of the driver, and of the largest rank

    def update(self, trials: Sequence[Any]) -> None:
        while len(self.at) < len(trials):
            self.at.append((time.time(), time.thread_time(), time.process_time()))
            if len(self.at) % 25 == 0:
                self.memory[len(self.at)] = (psutil.Process().memory_info().rss, max(_ranks(), default=0))

    def stage(self, text: str) -> None: ...

    def per_trial(self, begin: int, end: int) -> tuple[float, float, float]:
        """Seconds of wall, of the loop's thread and of the driver a trial, from one trial to another."""
        first, last = self.at[begin], self.at[end]
        return tuple((b - a) / (end - begin) for a, b in zip(first, last, strict=True))  # type: ignore[return-value]


def _ranks() -> list[int]:
    sizes = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "TrainWorker" in " ".join(process.cmdline()):
                sizes.append(process.memory_info().rss)
        except psutil.Error:
            continue
    return sizes


def run(data: str, home: Any, trials: int) -> Watch:
    from vitray.cluster.launch import Prepared
    from vitray.cluster.sweeps import sweep
    from vitray.experiment import Experiment

    watch = Watch()
    experiment = Experiment(
        data={"path": data},
        model={"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
        train={"epochs": 1, "global_batch": 2048},  # all images in one step
        optim={"warmup_epochs": 0},
        cluster={"use_gpu": False},
        search={
            "space": {"optim.lr": {"log": [1e-4, 1e-2]}},
            "trials": trials,
            "scheduler": "none",
            "retrain": False,
        },
        tracking={"experiment": "scale"},
    )
    result = sweep(Prepared.of(experiment, "scale"), home, lambda plan: watch)
    assert len(result.trials) == trials
    return watch


def page(home: Any, openings: int = 4) -> list[dict[str, float]]:
    """Seconds of each request that the run page of the sweep makes, for several openings."""
    command = [sys.executable, "-m", "vitray.cli", "ui", "--no-browser"]
    environment = {**os.environ, "VITRAY_HOME": str(home.root)}
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        assert server.stdout is not None
        base = server.stdout.readline().strip()  # said when it answers
        experiment = _ask(base, "experiments/get-by-name", {"experiment_name": "scale"})["experiment"]["experiment_id"]
        found = _ask(
            base,
            "runs/search",
            body={"experiment_ids": [experiment], "filter": "tags.`vitray.kind` = 'sweep'", "max_results": 1},
        )
        parent = found["runs"][0]["info"]["run_id"]
        requests: dict[str, tuple[str, dict[str, Any] | None, dict[str, Any] | None]] = {
            "the experiment": ("experiments/get", {"experiment_id": experiment}, None),
            "the run": ("runs/get", {"run_id": parent}, None),
            "its artifacts": ("artifacts/list", {"run_id": parent}, None),
            "the newest runs": (
                "runs/search",
                None,
                {"experiment_ids": [experiment], "order_by": ["attributes.start_time DESC"], "max_results": 100},
            ),
            "its trials": (  # as the page of MLflow 3.17 asks: ten, and ten more on a click
                "runs/search",
                None,
                {
                    "experiment_ids": [experiment],
                    "filter": f"tags.`mlflow.parentRunId` = '{parent}'",
                    "order_by": ["attributes.start_time DESC"],
                    "max_results": 10,
                },
            ),
        }
        times = []
        for _ in range(openings):
            seconds = {}
            for name, (path, query, body) in requests.items():
                start = time.perf_counter()
                _ask(base, path, query, body)
                seconds[name] = time.perf_counter() - start
            times.append(seconds)
        return times
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def _ask(base: str, path: str, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None) -> Any:
    url = f"{base}/ajax-api/2.0/mlflow/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--trials", type=int)
    options = parser.parse_args()
    trials = options.trials or (60 if options.quick else 1000)
    from vitray.data.prepare import prepare
    from vitray.home import Home

    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    home = Home(scratch / "home")
    os.environ["VITRAY_HOME"] = str(home.root)
    data = str(scratch / "digits")
    prepare("builtin:digits", data)
    start = time.time()
    watch = run(data, home, trials)
    harness.say(f"{trials} trials took {time.time() - start:.0f} s")
    tenth = trials // 10
    early, late = watch.per_trial(tenth // 2, tenth + tenth // 2), watch.per_trial(trials - tenth - 1, trials - 1)
    name = f"around the {tenth}th"
    rows = [
        harness.less_is_better(f"{what} a trial at the end of {trials}", "ms", [1e3 * b], [1e3 * a], name, 1 / 1.3)
        for what, a, b in zip(
            ("wall", "CPU of the driver's loop", "CPU of the driver in all"), early, late, strict=True
        )
    ]
    marks = sorted(watch.memory)
    if marks:
        first = min((m for m in marks if m >= tenth), default=marks[0])
        for place, what in enumerate(("the driver", "the largest rank")):
            sizes = [watch.memory[mark][place] / 2**20 for mark in (marks[-1], first)]
            rows.append(
                harness.less_is_better(
                    f"memory of {what} at trial {marks[-1]}", "MiB", [sizes[0]], [sizes[1]], f"at {first}"
                )
            )
    openings = page(home)
    for request in openings[0]:
        harness.say(f"{request}: " + ", ".join(f"{1e3 * seconds[request]:.0f}" for seconds in openings) + " ms")
    totals = [sum(seconds.values()) for seconds in openings]
    rows.append(
        harness.less_is_better("MLflow's page of the sweep, first opening", "s", totals[:1], [PAGE_S], "goal", 1)
    )
    rows.append(
        harness.less_is_better(
            "MLflow's page of the sweep, opened again", "s", [statistics.median(totals[1:])], [PAGE_S], "goal", 1
        )
    )
    shutil.rmtree(scratch, ignore_errors=True)
    harness.publish("sweep_scale", rows, options.output, harness.versions("vitray", "ray", "mlflow"))


if __name__ == "__main__":
    main()
