"""What befalls a tracking server: it is killed, slow, answers with errors, or comes back with nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bad_network import BadNetwork
from mlflow_server import MlflowServer

SLOW_S = 5.0
_PATIENCE_S = 30.0  # until somebody asks


class Service:
    """A real MLflow server on SQLite behind a network that can be made bad. ``uri`` is where clients go."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.server = MlflowServer(folder, f"sqlite:///{folder}/mlflow.db")
        self.network = BadNetwork(self.server.port)
        self.uri = self.network.uri
        self.emptied = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[Service]:
        self.server.start()
        try:
            with self.network.running():
                yield self
        finally:
            self.server.kill()

    def killed(self, seconds: float) -> None:
        """Away for so long; then it comes back as it was."""
        self.network.rule = lambda method, path: 502  # as a proxy answers, whose server is gone
        self.server.kill()
        time.sleep(seconds)
        self.server.start()
        self.network.rule = lambda method, path: "pass"

    def slow(self, seconds: float) -> None:
        """Every answer takes five seconds."""
        self._spoil(SLOW_S, seconds)

    def failing(self, seconds: float) -> None:
        """Every answer is an error of its own."""
        self._spoil(500, seconds)

    def empty(self, seconds: float) -> None:
        """Its store is deleted and made new while it is away, and clients go on."""
        self.network.rule = lambda method, path: 503
        self.server.kill()
        files = list(self._folder.glob("mlflow.db*"))
        assert files, "there was something to delete"
        for file in files:
            file.unlink()
        time.sleep(seconds)
        self.server.start()
        self.emptied += 1
        self.network.rule = lambda method, path: "pass"

    def spoil_for(self, what: float | int, seconds: float) -> None:
        """A status that is answered instead (int), or seconds by which answers come late (float); if any are asked."""
        self.network.rule = lambda method, path: what
        time.sleep(seconds)
        self.network.rule = lambda method, path: "pass"

    def _spoil(self, what: float | int, seconds: float) -> None:
        before = self.network.spoilt
        self.network.rule = lambda method, path: what
        until = time.monotonic() + seconds
        while time.monotonic() < until or (self.network.spoilt == before and time.monotonic() < until + _PATIENCE_S):
            time.sleep(0.05)
        self.network.rule = lambda method, path: "pass"


FAULTS: dict[str, Callable[[Service, float], None]] = {
    "killed": Service.killed,
    "slow": Service.slow,
    "failing": Service.failing,
    "emptied": Service.empty,
}
