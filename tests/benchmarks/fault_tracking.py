"""A training loop whose MLflow server is killed, slow, answers with errors or comes back empty; and the plain way.

Each arm is a loop of 20 ms steps that reports two metrics a step, in a process of its own, against a real ``mlflow
server`` behind a proxy: undisturbed for ten seconds, with the fault for ``--seconds``, undisturbed again for ten. Ours
is ``MlflowTracker``; the plain way is ``mlflow.log_metrics`` with MLflow's own settings. Compared are the time and the
processor time of a step during the fault with those before it in the same process (what the process does in the
background included), and what MLflow has in the end. A loop that died is a row that says so.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tracking"))
sys.path.insert(0, str(Path(__file__).parent.parent / "faults"))
from tracking_faults import FAULTS, Service

STEP_S, PEACE_S = 0.02, 10.0
LONGEST = 4  # times as long as the fault lasts


def arm(way: str, uri: str, folder: Path, phases: Path) -> None:
    """The loop; ``phases`` holds a word that says which phase it is in. Writes a line of JSON after each step."""
    import numpy as np

    if way == "ours":
        from vitray.tracking import MlflowTracker

        tracker = MlflowTracker(uri, folder / "spool", folder / "artifacts")
        tracker.start_run("run", name="run", experiment="bench", params={}, tags={})

        def report(step: int) -> None:
            tracker.log_metrics("run", {"loss": 1 / step, "accuracy": step / 1e5}, step=step)
    else:
        import mlflow

        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment("bench")
        mlflow.start_run(run_name="run")

        def report(step: int) -> None:
            mlflow.log_metrics({"loss": 1 / step, "accuracy": step / 1e5}, step=step)

    values, step = np.random.default_rng(0).random((120, 120)), 0
    with (folder / "steps.jsonl").open("w", buffering=1) as out:
        while (phase := phases.read_text()) != "over":
            step += 1
            began, cpu = time.perf_counter(), time.process_time()
            until = time.thread_time() + STEP_S / 2
            while time.thread_time() < until:  # work that takes the same processor time wherever it runs
                values = np.tanh(values @ values / 120)
            time.sleep(STEP_S / 2)
            report(step)
            if phases.read_text() != phase:
                phase = "fault"  # a step that lasted from before it, or until after it
            line = {"phase": phase, "wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
            out.write(json.dumps(line) + "\n")
    (folder / "done").touch()
    if way == "ours":
        tracker.end_run("run", "FINISHED")
        tracker.flush(120)
        tracker.close()
    else:
        mlflow.end_run()


def measure(way: str, fault: str, seconds: float, scratch: Path) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    phases = folder / "phase"

    def phase(name: str) -> None:
        (folder / "next").write_text(name)
        (folder / "next").replace(phases)

    phase("starting")
    with Service(folder / "mlflow").running() as service:
        command = [sys.executable, __file__, "--arm", way, service.uri, str(folder), str(phases)]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OPENBLAS_NUM_THREADS": "1"}
        with (folder / "log").open("wb") as log:
            loop = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while not (folder / "steps.jsonl").exists() and loop.poll() is None:
                time.sleep(0.1)
            time.sleep(3)
            phase("peace")
            time.sleep(PEACE_S)
            phase("fault")
            trouble = threading.Thread(target=FAULTS[fault], args=(service, seconds))
            trouble.start()
            trouble.join()
            phase("after")
            time.sleep(PEACE_S)
            phase("over")
            try:
                loop.wait(LONGEST * seconds + 120)
            except subprocess.TimeoutExpired:
                loop.kill()
                loop.wait()
            found = stored(service.uri)
        finally:
            if loop.poll() is None:
                loop.kill()
                loop.wait()
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines() if line.endswith("}")]
    said = {"steps": len(lines), "found": found, "died": loop.returncode != 0, "log": (folder / "log").read_text()}
    for name in ("peace", "fault"):
        here = [line for line in lines if line["phase"] == name]
        said[name] = {
            "steps": len(here),
            "wall": statistics.mean([line["wall"] for line in here]) if here else float("nan"),
            "cpu": statistics.mean([line["cpu"] for line in here]) if here else float("nan"),
            "slowest": max((line["wall"] for line in here), default=float("nan")),
        }
    before, then = said["peace"], said["fault"]
    harness.say(
        f"{fault}, {way}: a step took {before['wall'] * 1e3:.1f} ms before, {then['wall'] * 1e3:.1f} in the fault "
        f"(CPU {before['cpu'] * 1e3:.2f}, {then['cpu'] * 1e3:.2f}), the slowest {then['slowest']:.1f} s; "
        f"{found} of {len(lines)} points"
        + (f"; it died: {said['log'].strip().splitlines()[-1][:200]}" if said["died"] else "")
    )
    return said


def stored(uri: str) -> int:
    """How many points of the loss the server has in the end, doubles included."""
    from vitray.tracking.mlflow_client import connect

    client = connect(uri)
    experiment = client.get_experiment_by_name("bench")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return sum(len(client.get_metric_history(run.info.run_id, "loss")) for run in runs)


def main() -> None:
    if sys.argv[1:2] == ["--arm"]:
        way, uri, folder, phases = sys.argv[2:]
        arm(way, uri, Path(folder), Path(phases))
        return
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, help="that each fault lasts (default 60)")
    options = parser.parse_args()
    seconds = options.seconds or (8 if options.quick else 60)
    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    rows = []
    try:
        for fault in FAULTS:
            ours, plain = measure("ours", fault, seconds, scratch), measure("plain", fault, seconds, scratch)
            for what in ("wall", "cpu"):
                slower = [one["fault"][what] / one["peace"][what] for one in (ours, plain)]
                name, peer = f"{fault}: {what} time of a step, against before", "mlflow.log_metrics"
                ratio = 1 / slower[0]
                rows.append(harness.Row(name, "x", slower[0], slower[1], peer, ratio, 1 / 1.02))
            share = [one["found"] / max(1, one["steps"]) for one in (ours, plain)]
            name = f"{fault}: share of points that MLflow has" + (", loop died" if plain["died"] else "")
            rows.append(harness.Row(name, "", share[0], share[1], "mlflow.log_metrics", share[0], 1.0))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    harness.publish("fault_tracking", rows, options.output, harness.versions("vitray", "mlflow"))


if __name__ == "__main__":
    main()
