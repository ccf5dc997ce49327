"""`vitray jobs` against a real head, as a person types it, and the cluster's own view of what was submitted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_head import Head

from vitray.cluster.job_client import Dashboard

PATIENCE_S = 90.0


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def said(self) -> Any:
        """What `--output json` printed."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Jobs:
    """``home``: VITRAY_HOME of whoever submits; ``folder``: where they are."""

    head: Head
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def dashboard(self) -> Dashboard:
        return Dashboard(self.head.url, self.head.token)

    def environment(self, **more: str) -> dict[str, str]:
        ours = self.head.environment(**{"RAY_ADDRESS": self.head.url, "VITRAY_HOME": str(self.home), **more})
        del ours["RAY_AUTH_MODE"]  # which Ray's own client needs, and this one does not
        return ours

    def __call__(self, *words: str, elsewhere: bool = False, **more: str) -> Done:
        """``vitray jobs WORDS``; ``elsewhere``: as on a machine with other folders, though with the same network."""
        command = [*(("unshare", "--mount") if elsewhere else ()), sys.executable, "-m", "vitray.cli", "jobs", *words]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def interrupted(self, *words: str, when: Callable[[str], bool]) -> Done:
        """``vitray jobs WORDS``, and Ctrl-C as soon as its output is such."""
        process = subprocess.Popen(
            [sys.executable, "-c", _INTERRUPTIBLE, "jobs", *words],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        out = ""
        while not when(out) and (line := process.stdout.readline()):
            out += line
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=PATIENCE_S)
        return Done(process.returncode, out + rest, err)

    def raw(self, entrypoint: str, **runtime_env: Any) -> str:
        """A job of somebody who does not use vitray."""
        asked = {"entrypoint": entrypoint, "runtime_env": runtime_env}
        number: str = self.dashboard.post("/api/jobs/", asked)["submission_id"]
        return number

    def log(self, job: str) -> str:
        text: str = self.dashboard.get(f"/api/jobs/{job}/logs")["logs"]
        return text

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something of the cluster."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)


# Where pytest runs in the background, a shell has its children ignore Ctrl-C.
_INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from vitray.cli import main; main()"
)


def can_be_elsewhere() -> bool:
    """Whether this process may have folders of its own."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0
