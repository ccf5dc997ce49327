"""``vitray serve`` with and without batching against ``mlflow models serve`` and the stock way with Ray Serve.

One model in one registry, one image a request, all on this machine's cores: the clients (asyncio, one process) share
them with the servers. All servers are up; they are asked one after the other, in turn, over several rounds.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from harness import Row, arguments, less_is_better, more_is_better, publish, say, versions
from photos import photos_of, write_photos
from serving_arms import Arm, Measured, running

OURS, UNBATCHED, MLFLOW, STOCK = "vitray", "vitray --max-batch 1", "mlflow models serve", "Ray Serve, serve.batch"
# As the quickstart finds it, and ViT-Ti/16 as in the papers.
MODELS: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 64, "depth": 4, "num_heads": 2},
    "tiny16": {"image_size": 224, "patch_size": 16, "in_chans": 3, "embed_dim": 192, "depth": 12, "num_heads": 3},
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--model", choices=list(MODELS), default="digits")
    parser.add_argument("--clients", default="1,8,32", help="numbers of clients, as 1,8,32")
    parser.add_argument("--seconds", type=float, help="of one measurement (5, and 15 of the slower model)")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    clients = [int(number) for number in given.clients.split(",")]
    usual = 5.0 if given.model == "digits" else 15.0
    rounds, seconds = (1, usual / 3) if given.quick else (given.rounds, given.seconds or usual)
    found: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="vitray-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        package, uri = registered(folder, given.model)
        images = images_for(folder, given.model)
        servers = [stack.enter_context(running(arm, folder)) for arm in arms(folder, package, uri)]
        for server in servers:  # the first dozens of requests are slow everywhere: imports, threads, caches
            server.measure(images, 8, 0.5 if given.quick else 3.0)
        for round_number in range(rounds):
            for count in clients:
                for server in servers[round_number % len(servers) :] + servers[: round_number % len(servers)]:
                    measured = server.measure(images, count, seconds)
                    found[server.arm.name, count].append(measured)
                    say(f"round {round_number + 1}: {count} clients, {server.arm.name}: {measured}")
    # Of the other model the forward pass is nearly all there is, and 32 of them take as long as 32 times one.
    goal = 2.0 if given.model == "digits" else None
    rows = [row for count in clients for row in rows_for(found, count, goal if count == 32 else None)]
    publish(f"serving {given.model}", rows, given.output, versions("ray", "mlflow", "torch", "uvicorn"))


def registered(folder: Path, name: str) -> tuple[Path, str]:
    """A package of the model with weights as they are at the start, and the registry whose champion it is."""
    from vitray.experiment import ModelConfig
    from vitray.models import VisionTransformer
    from vitray.models.package import PackageInfo, save_package
    from vitray.tracking import MlflowTracker, registry

    config = ModelConfig(**MODELS[name], num_classes=10)
    channels = config.in_chans or 1
    info = PackageInfo(
        model=config,
        classes=tuple("0123456789"),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        dataset_fingerprint="0" * 64,
    )
    package = save_package(folder / "package", VisionTransformer(config).state_dict(), info)
    uri = f"sqlite:///{folder}/mlflow.db"
    tracker = MlflowTracker(uri, folder / "spool", folder / "artifacts")
    tracker.start_run("r", name="r", experiment="e", params={}, tags={})
    tracker.end_run("r", "FINISHED")
    assert tracker.flush(60)
    tracker.close()
    registry.register_model(uri, name="bench", package=package, run="r", tags={}, description="")
    return package, uri


def images_for(folder: Path, name: str) -> list[bytes]:
    """64 files as they would be sent: 8x8 PNGs, or photographs of 256 x 256 as JPEG."""
    if name == "digits":
        from vitray.data.decode import encode_png

        noise = np.random.default_rng(0)
        return [encode_png(noise.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(64)]
    return [file.read_bytes() for file in photos_of(write_photos(folder / "photos", 64))]


def arms(folder: Path, package: Path, uri: str) -> list[Arm]:
    cpus = str(psutil.cpu_count())
    home = {"VITRAY_HOME": str(folder)}
    # A worker for each core is what MLflow has for them; each with one thread, or they would fight.
    workers = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    serve = (sys.executable, "-m", "vitray.cli", "serve", "models:/bench@champion", "--port", "{port}")
    mlflow = ("mlflow", "models", "serve", "-m", "models:/bench@champion", "--env-manager", "local", "-w", cpus)
    stock = (sys.executable, str(Path(__file__).with_name("serving_stock.py")), str(package), "{port}", cpus)
    return [
        Arm(OURS, serve, "/readyz", "/predict", environment=home),
        Arm(UNBATCHED, (*serve, "--max-batch", "1"), "/readyz", "/predict", environment=home),
        Arm(MLFLOW, (*mlflow, "-p", "{port}"), "/ping", "/invocations", json=True, environment=workers),
        Arm(STOCK, stock, "/-/healthz", "/predict", environment=home),
    ]


def rows_for(found: dict[tuple[str, int], list[Measured]], count: int, goal: float | None) -> list[Row]:
    """``goal``: how many times the unbatched rate ours shall be."""

    def values(arm: str, name: str) -> list[float]:
        return [getattr(measured, name) for measured in found[arm, count]]

    rows = []
    for peer in (UNBATCHED, MLFLOW, STOCK):
        wanted = goal if peer == UNBATCHED else None
        rows.append(
            more_is_better(f"{count} clients", "requests/s", values(OURS, "rate"), values(peer, "rate"), peer, wanted)
        )
        for metric, name, unit in (
            ("latency, p50", "p50", "ms"),
            ("latency, p99", "p99", "ms"),
            ("CPU of the server a request", "server_ms", "ms"),
        ):
            rows.append(
                less_is_better(f"{count} clients, {metric}", unit, values(OURS, name), values(peer, name), peer)
            )
    client = statistics.median(values(OURS, "client_ms"))
    say(f"{count} clients: the client itself takes {client:.2f} ms of processor time a request")
    return rows


if __name__ == "__main__":
    main()
