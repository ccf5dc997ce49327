"""A training on docker/compose.yaml's cluster, a network namespace for each host, and cuts between some of them."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from container import Container
from engine import Engine
from laptop import Laptop
from ledger import Ledger

from vitray.train.checkpoint_names import COMMIT

_HERE = Path(__file__).parent
EPOCHS = 32
_CONFIG = f"""
data: {{path: "builtin:digits"}}
model: {{patch_size: 2, embed_dim: 32, depth: 2, num_heads: 2}}
train: {{epochs: {EPOCHS}, global_batch: 64, checkpoint_steps: 7}}
cluster: {{workers: WORKERS, use_gpu: false, threads: 1}}
tracking: {{experiment: cuts}}
"""
_PATIENCE_S = 400.0


@dataclass
class Run:
    """A training that was submitted. ``job``: its id."""

    name: str
    job: str
    engine: Engine
    laptop: Laptop
    home: Path = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.engine.volume("vitray")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.home / f"ledger-{self.name}")

    def status(self) -> str:
        said: str = self.laptop.ask_ray(f"/api/jobs/{self.job}")["status"]
        return said

    def log(self) -> str:
        text: str = self.laptop.ask_ray(f"/api/jobs/{self.job}/logs")["logs"]
        return text

    def slowly(self) -> None:
        """Each evaluation takes two seconds longer, from now on: so there is something to cut."""
        (self.home / f"ledger-{self.name}" / "slow evaluating").touch()

    def wait_for_epoch(self, epoch: int) -> None:
        until = time.monotonic() + _PATIENCE_S
        while f"epoch {epoch}/" not in (log := self.log()):
            assert self.status() not in ("FAILED", "SUCCEEDED"), log
            assert time.monotonic() < until, log
            time.sleep(1.0)

    def wait(self) -> None:
        """Until it is done, by itself."""
        until = time.monotonic() + _PATIENCE_S
        while (status := self.status()) not in ("SUCCEEDED", "FAILED", "STOPPED"):
            assert time.monotonic() < until, self.log()
            time.sleep(0.5)
        assert status == "SUCCEEDED", self.log()

    def weights(self) -> bytes:
        """Of the newest checkpoint."""
        newest = max((self.home / "runs" / self.name / "checkpoints").glob(f"step-*/{COMMIT}"))
        return (newest.parent / "model.safetensors").read_bytes()

    def points(self) -> tuple[list[str], list[int]]:
        """In MLflow: the states of its runs, and the epochs that have a loss, as often as they have one."""
        ask = ["psql", "--host=postgres", "--username=mlflow", "mlflow", "-tAc"]
        where = f"from runs where name = '{self.name}'"
        losses = (
            f"select step from metrics where key = 'train/loss' and run_uuid in (select run_uuid {where}) order by 1"
        )
        database, password = self.engine.containers["postgres-1"], self.engine.secret("postgres_password")
        said = [
            database.run(*ask, text, PGPASSWORD=password).stdout.split() for text in (f"select status {where}", losses)
        ]
        return said[0], [int(step) for step in said[1]]


def submit(engine: Engine, laptop: Laptop, name: str, workers: int) -> Run:
    """A training as a job, whose ranks keep a ledger."""
    home = engine.volume("vitray")
    program = home / "test" / "faults" / "ledger_driver.py"
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_HERE / "ledger_driver.py", program)
    shutil.copy(_HERE.parent / "ledger.py", home / "test" / "ledger.py")
    (home / f"{name}.yaml").write_text(f"name: {name}{_CONFIG.replace('WORKERS', str(workers))}")
    ledger = home / f"ledger-{name}"
    ledger.mkdir()
    ledger.chmod(0o777)
    asked: dict[str, Any] = {
        "entrypoint": f"python /vitray/test/faults/ledger_driver.py train /vitray/{name}.yaml",
        "runtime_env": {"env_vars": {"VITRAY_TEST_LEDGER": f"/vitray/ledger-{name}"}},
    }
    request = urllib.request.Request(f"{laptop.ray}/api/jobs/", data=json.dumps(asked).encode(), method="POST")
    request.add_header("Authorization", f"Bearer {engine.secret('ray_auth_token')}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return Run(name, json.load(answer)["submission_id"], engine, laptop)


@contextlib.contextmanager
def restarted(engine: Engine) -> Iterator[list[str]]:
    """``restart: unless-stopped``: workers that end are started again. Their names, as often as they were."""
    ended, again = threading.Event(), []

    def watch() -> None:
        while not ended.wait(0.5):
            for container in engine.of("ray-worker"):
                if not container.running():
                    again.append(container.name)
                    container.kill()
                    container.start()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield again
    finally:
        ended.set()
        thread.join()


def reaches(one: Container, other: Container, port: int, network: str = "cluster") -> bool:
    """Whether a connection from one host to another comes about."""
    code = f"import socket; socket.create_connection(('{other.addresses[network]}', {port}), 2)"
    return one.run("python", "-c", code).returncode == 0
