"""Where a run came from, as tags: the code's git commit, the packages, the machine, the Ray job."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

_PACKAGES = ("ray", "torch", "torchvision", "mlflow", "numpy", "pyarrow", "optuna")
OF_REPOSITORY = (
    "mlflow.source.git.commit",
    "vitray.git_dirty",
    "mlflow.source.git.branch",
    "mlflow.source.git.repoURL",
)
_PATIENCE_S = 5.0  # a repository on a slow disk must not hold up a training


def provenance() -> dict[str, str]:
    """Tags that every run gets. Under MLflow's own names where it has some, so that its pages know them."""
    return {
        "version.python": platform.python_version(),
        **{f"version.{name}": importlib.metadata.version(name) for name in _PACKAGES},
        "vitray.machine": f"{platform.node()}, {platform.machine()}, {os.cpu_count()} CPUs",
        **of_repository(Path.cwd()),
        **of_ray_job(),
    }


@cache
def of_repository(folder: Path) -> dict[str, str]:
    """Commit, branch and address of the git repository that ``folder`` is in, and whether tracked files differ from
    the commit; nothing where there is none. Asked once: what is edited while a run goes on is not what it runs."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    # Not untracked files: a folder of results in a repository would make every run look changed.
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    dirty = "unknown" if changes is None else "yes" if changes else "no"
    tags = {"mlflow.source.git.commit": commit, "vitray.git_dirty": dirty}
    for tag, answer in (
        ("mlflow.source.git.branch", _git(folder, "rev-parse", "--abbrev-ref", "HEAD")),
        ("mlflow.source.git.repoURL", _git(folder, "remote", "get-url", "origin")),
    ):
        if answer:
            tags[tag] = answer
    return tags


def of_ray_job() -> dict[str, str]:
    """The job that this process is, where it is connected to a Ray; and the name it was submitted under."""
    ray = sys.modules.get("ray")  # importing it would take seconds, and could not help
    tags = {}
    if ray is not None and ray.is_initialized():
        tags["vitray.ray_job_id"] = ray.get_runtime_context().get_job_id()
        if (submission := submission_id()) is not None:
            tags["vitray.ray_submission_id"] = submission
            # The repository of who submitted it: where the job runs there is none.
            tags |= {key: value for key, value in _job_metadata().items() if key in OF_REPOSITORY}
    return tags


def submission_id() -> str | None:
    """Of the job that this process is the driver of; None where nobody submitted it."""
    return _job_metadata().get("job_submission_id")


def _job_metadata() -> dict[str, str]:
    try:
        metadata = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]
        return {key: str(value) for key, value in metadata.items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _git(folder: Path, *command: str) -> str | None:
    """Its answer; None where git, the repository or the thing asked for is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
