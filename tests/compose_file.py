"""docker/compose.yaml and docker/Dockerfile as an engine reads them: variables filled in, stages apart."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


def compose_text() -> str:
    return (FOLDER / "compose.yaml").read_text()


def example() -> dict[str, str]:
    """The variables of docker/.env.example."""
    lines = (FOLDER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose(**values: str) -> dict[str, Any]:
    """The file as Compose would see it with these variables."""

    def fill(match: re.Match[str]) -> str:
        value = values.get(match["name"], "")
        assert value or match["kind"] != "?", match["text"]
        return value or match["text"] or ""

    return yaml.safe_load(VARIABLE.sub(fill, compose_text()))


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest), continued lines joined."""
    text = re.sub(r"\\\n", " ", (FOLDER / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Each stage of the Dockerfile: what it is made from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    for word, rest in instructions():
        if word == "FROM":
            origin, _, name = rest.partition(" AS ")
            current = []
            found[name] = (origin, current)
        else:
            current.append((word, rest))
    return found


def lineage(stage: str) -> list[tuple[str, str]]:
    """The instructions of a stage and, before them, of the stages that it is made from."""
    known = stages()
    found: list[tuple[str, str]] = []
    while stage in known:
        stage, own = known[stage]
        found = [*own, *found]
    return found


def image_environment(stage: str) -> dict[str, str]:
    """The variables that containers of a stage get from its ENV instructions."""
    pairs = [pair for word, rest in lineage(stage) if word == "ENV" for pair in shlex.split(rest)]
    inherited = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # of the python image
    return {name: value.replace("$PATH", inherited) for name, _, value in (pair.partition("=") for pair in pairs)}


def image_files(stage: str) -> dict[str, Path]:
    """What a stage copies from the repository: path in the image, and where it is here."""
    found: dict[str, Path] = {}
    folder = "/"
    for word, rest in lineage(stage):
        if word == "WORKDIR":
            folder = rest
        elif word == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                name = f"{target}{Path(source).name}" if target.endswith("/") else target
                found[name if name.startswith("/") else f"{folder}/{name}"] = ROOT / source
    return found
