"""``python -m vitray.cli.job train CONFIG ...``: a command of this line as the driver of a submitted job."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from vitray import __version__
from vitray.cluster.job_state import HOME_ELSE
from vitray.errors import ConfigError

_KEEPING = ("train", "sweep")  # commands that write below VITRAY_HOME
_RAY_COPY = "working_dir_files"  # the folder in which Ray puts working directories that were sent along


def run(words: list[str]) -> None:
    """Run a command of the command line as a job, and exit with its code.

    Ray sets ``RAY_ADDRESS`` for a submitted job, so that the command joins the cluster it runs on. A working directory
    that was sent along is a copy which Ray deletes in its own time, so state must not be kept there.
    """
    _be_interrupted()
    from vitray.cli import exit_with, main

    # Whoever stops this job waits for this line (cluster/job_watch.py): Ray interrupts it once.
    print(f"vitray {__version__}: {words[0] if words else ''}", file=sys.stderr, flush=True)  # noqa: T201
    os.environ.setdefault("COLUMNS", "160")  # a log is no narrow terminal
    if home := os.environ.pop(HOME_ELSE, None):
        os.environ.setdefault("VITRAY_HOME", home)
    if words[:1] and words[0] in _KEEPING and "VITRAY_HOME" not in os.environ and _RAY_COPY in Path.cwd().parts:
        exit_with(
            ConfigError(
                "runs and models would be lost with Ray's copy of the working directory",
                where="VITRAY_HOME",
                remedy="name a folder that lasts and that all machines of the cluster see: vitray jobs submit "
                "--home /shared/vitray ..., or VITRAY_HOME in the cluster's environment or the job's env_vars",
            )
        )
    main(words)


def _be_interrupted() -> None:
    """A stop is an interrupt, which saves a checkpoint; not so where somebody up the line had it blocked or ignored.

    Ray blocks it in its processes, and whatever a script starts in the background ignores it.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    run(sys.argv[1:])
