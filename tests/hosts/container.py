"""A container without an engine: a command with its own network, processes, files and user, by Linux's own tools.

What is as in an engine: addresses and names, the user without capabilities and without a way to new privileges, a root
that cannot be written, tmpfs with an engine's options, volumes, files of secrets, the init, signals. What is not: the
files of the image (this machine's system folders and .venv stand for them), limits of memory, CPUs, processes and
open files, and seccomp.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
ENTER = Path(__file__).parent / "enter.sh"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
_starter = ThreadPoolExecutor(1, "containers")
_ENGINE_TMPFS = "rw,nosuid,nodev,noexec"  # what an engine gives where nothing else is said


def missing() -> str | None:
    """Why containers cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "unshare", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            return f"there is no `{program}` (Debian: apt install iproute2 util-linux)"
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "this machine does not allow namespaces" if tried.returncode else None


@dataclass
class Spec:
    """How a container is started. ``files``: path in it, path here, ``ro`` or ``rw``; ``tmpfs``: path, options."""

    command: list[str]
    environment: dict[str, str]
    user: str
    hostname: str
    files: list[tuple[str, Path, str]]
    tmpfs: list[tuple[str, str]]
    folders: list[str]
    read_only: bool
    work: str = "/"
    stop_signal: int = signal.SIGTERM
    stop_grace_s: float = 10.0


@dataclass
class Container:
    """A started command. ``folder`` holds its log and the place of its root, on this machine."""

    name: str
    namespace: str
    addresses: dict[str, str]  # by network
    spec: Spec
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    _init: int | None = field(default=None, repr=False)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self.process is None else self.process.poll()

    def start(self) -> None:
        (self.folder / "root").mkdir(parents=True, exist_ok=True)
        base = sys.base_prefix
        system = [*_SYSTEM, *([] if base.startswith("/usr/") else [base])]
        code = [(str(ROOT / name), ROOT / name, "ro") for name in (".venv", "platform", "configs")]
        files = [*code, ("/opt/venv", ROOT / ".venv", "ro"), *self.spec.files]
        variables = {
            "PATH": os.environ["PATH"],
            "ROOT": str(self.folder / "root"),
            "HOST": self.spec.hostname,
            "SYSTEM": " ".join(system),
            "FILES": "\n".join(f"{source} {target} {how}" for target, source, how in files),
            "TMPFS": "\n".join(f"{target} {_ENGINE_TMPFS},{options}" for target, options in self.spec.tmpfs),
            "FOLDERS": " ".join([self.spec.work, *self.spec.folders]),
            "READ_ONLY": "true" if self.spec.read_only else "false",
            "RUN_AS": self.spec.user,
            "WORK": self.spec.work,
            "ENVIRONMENT": "\n".join(f"{key}={value}" for key, value in self.spec.environment.items()),
        }
        # It dies with this process, whatever ends that; told by the thread that began it, which has to live as long.
        command = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace]
        command += ["unshare", "--mount", "--pid", "--ipc", "--uts"]
        command += ["--fork", "--kill-child=KILL", "bash", str(ENTER), *self.spec.command]
        with (self.folder / "log").open("ab") as log:
            begin = partial(subprocess.Popen[bytes], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.process = _starter.submit(begin, command, env=variables, start_new_session=True).result()
        self._init = None

    def init(self) -> int:
        """This machine's number of the container's first process, once the command runs in its own root."""
        assert self.process is not None
        deadline = time.monotonic() + 20
        while self._init is None and self.process.poll() is None and time.monotonic() < deadline:
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.Error, OSError):
                    if child.cmdline()[-len(self.spec.command) :] == self.spec.command and "init" in child.cmdline():
                        self._init = child.pid
            time.sleep(0.02)
        assert self._init is not None, f"{self.name} did not start:\n{self.log}"
        return self._init

    def command_in(self, *command: str, **more: str) -> list[str]:
        """What runs ``command`` inside: as the container's user, with its environment and ``more``."""
        environment = [f"{key}={value}" for key, value in {**self.spec.environment, **more}.items()]
        user = ["--reuid", self.spec.user, "--regid", self.spec.user, "--clear-groups", "--bounding-set=-all"]
        user += ["--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"]
        enter = ["nsenter", f"--target={self.init()}", "--net", "--mount", "--pid", "--ipc", "--uts", "--root"]
        inside = ["setpriv", *user, "env", "--ignore-environment", "--chdir", self.spec.work, *environment, *command]
        return [*enter, f"--wdns={self.spec.work}", *inside]

    def run(self, *command: str, timeout: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
        """``docker compose exec``: a command in the running container."""
        return subprocess.run(
            self.command_in(*command, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def stop(self) -> bool:
        """The stop signal, then after the time of grace SIGKILL to all its processes. True if the signal was enough."""
        if self.process is None:
            return True
        in_time = True
        if self.process.poll() is None:
            with contextlib.suppress(AssertionError, ProcessLookupError):
                os.kill(self.init(), self.spec.stop_signal)
            try:
                self.process.wait(self.spec.stop_grace_s)
            except subprocess.TimeoutExpired:
                in_time = False
                self.kill()
        return in_time

    def kill(self) -> bool:
        """SIGKILL: with the first process of a namespace all others die. False if one is still there after a while."""
        if self.process is None:
            return True
        below: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            # `unshare` waits for its child, the first of the namespace, and ends with it.
            (below[0] if below else self.process).kill()
        self.process.wait(20)
        _, left = psutil.wait_procs(below, timeout=20)
        return not left
