"""What early stopping buys: ASHA against random search at an equal budget, on digits, seed by seed.

Both draw from the same space with the same seed. The budget is that of the random sweep: as many epochs, and, counted
apart, as many worker-seconds. ASHA's sweep has more trials than it can pay for; what it reports after the budget is
spent does not count. The difference of the best validation accuracies has a 95 % interval over the seeds (Student's t
of the pairs).
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness

METRIC = "val/accuracy"


def run(data: str, home: Any, seed: int, scheduler: str, trials: int, epochs: int) -> Sequence[Any]:
    from vitray.cluster.launch import Prepared
    from vitray.cluster.sweeps import sweep
    from vitray.experiment import Experiment

    class Silent:
        def update(self, trials: Any) -> None: ...
        def stage(self, text: str) -> None: ...

    experiment = Experiment(
        data={"path": data, "augment": {"shift": 1}},
        model={"embed_dim": 64, "num_heads": 4, "patch_size": 4},
        train={"epochs": epochs, "global_batch": 128, "label_smoothing": 0.1},
        cluster={"use_gpu": False},
        search={
            "space": {
                "model.patch_size": [2, 4],
                "model.depth": [1, 2, 4],
                "model.num_heads": [2, 4],
                "model.pos_encoding": ["none", "learned", "sinusoidal_2d", "relative", "rope_2d"],
                "optim.lr": {"log": [1e-4, 1e-2]},
                "optim.weight_decay": {"log": [1e-3, 0.3]},
            },
            "trials": trials,
            "seed": seed,
            "scheduler": scheduler,
            "grace_epochs": max(1, epochs // 9),
            "retrain": False,
        },
        tracking={"experiment": scheduler},
    )
    return sweep(Prepared.of(experiment, f"{scheduler}-{seed}"), home, lambda plan: Silent()).trials


def spent(trials: Sequence[Any]) -> list[tuple[float, float, float]]:
    """(epochs, worker-seconds, best accuracy) after each report of a sweep, in the order in which they came."""
    reports = sorted((r for t in trials if t.kind == "search" for r in t.reports), key=lambda r: r["at"])
    spans = [span for t in trials if t.kind == "search" for span in t.spans]
    course, best = [], -math.inf
    for number, report in enumerate(reports, start=1):
        best = max(best, report[METRIC])
        now = report["at"]
        seconds = sum(max(0.0, min(span[-1], now) - span[0]) for span in spans)
        course.append((float(number), seconds, best))
    return course


def best_within(course: Sequence[tuple[float, float, float]], budget: float, by: int) -> float:
    return max((point[2] for point in course if point[by] <= budget), default=0.0)


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int)
    options = parser.parse_args()
    seeds, trials, epochs = (2, 3, 3) if options.quick else (5, 12, 27)
    seeds = options.seeds or seeds
    from vitray.data.prepare import prepare
    from vitray.home import Home
    from vitray.train.intervals import of_mean

    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    home = Home(scratch / "home")
    os.environ["VITRAY_HOME"] = str(home.root)
    data = str(scratch / "digits")
    prepare("builtin:digits", data)
    found: dict[str, tuple[list[float], list[float]]] = {"epochs": ([], []), "worker-seconds": ([], [])}
    for seed in range(seeds):
        courses = {}
        arms = {"none": trials, "asha": 6 * trials}
        for scheduler in list(arms)[:: 1 if seed % 2 else -1]:
            courses[scheduler] = spent(run(data, home, seed, scheduler, arms[scheduler], epochs))
        for by, (unit, (ours, peers)) in enumerate(found.items()):
            # What one arm has spent less than the other is not held against either.
            budget = min(course[-1][by] for course in courses.values())
            ours.append(best_within(courses["asha"], budget, by))
            peers.append(best_within(courses["none"], budget, by))
            harness.say(
                f"seed {seed}, {budget:.0f} {unit} (random could spend {courses['none'][-1][by]:.0f}, ASHA "
                f"{courses['asha'][-1][by]:.0f}): ASHA {ours[-1]:.4f}, random {peers[-1]:.4f}"
            )
    rows = []
    for unit, (ours, peers) in found.items():
        rows.append(harness.more_is_better(f"best {METRIC} for equal {unit}, ASHA", "", ours, peers, "random"))
        if seeds > 1:
            low, high = of_mean([a - b for a, b in zip(ours, peers, strict=True)])
            mean = [math.fsum(values) / seeds for values in (ours, peers)]
            text = f"difference {mean[0] - mean[1]:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
            rows.append(harness.more_is_better(f"mean of {seeds} seeds ({text})", "", mean[:1], mean[1:], "random"))
    shutil.rmtree(scratch, ignore_errors=True)
    harness.publish("asha_vs_random", rows, options.output, harness.versions("vitray", "ray", "torch"))


if __name__ == "__main__":
    main()
