"""The container files, read without an engine: what they copy, run, publish and ask for exists.

What this does not show: that the image builds, that containers start and find each other, that volumes and limits do
what they say. The tests in tests/cluster run the same Ray commands and the same health pages on the bare machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

# The warnings are those of the libraries whose flags are read.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")
_SECRET = re.compile(r"token|secret|password|credential", re.IGNORECASE)


def compose_text() -> str:
    return (FOLDER / "compose.yaml").read_text()


def example() -> dict[str, str]:
    lines = (FOLDER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def services(**values: str) -> dict[str, Any]:
    """The services as Compose would see them with these variables."""

    def fill(match: re.Match[str]) -> str:
        value = values.get(match["name"], "")
        assert value or match["kind"] != "?", match["text"]
        return value or match["text"] or ""

    return yaml.safe_load(_VARIABLE.sub(fill, compose_text()))["services"]


SERVICES = services(RAY_AUTH_TOKEN="t")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest), continued lines joined."""
    text = re.sub(r"\\\n", " ", (FOLDER / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def given(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def health_code(service: str) -> str:
    kind, executable, flag, code = SERVICES[service]["healthcheck"]["test"]
    assert (kind, executable, flag) == ("CMD", "python", "-c")
    return str(code)


def options(service: str) -> dict[str, Any]:
    """A service's command, read by the command line it calls: an unknown flag or a value of the wrong type raises."""
    program, verb, *words = SERVICES[service]["command"]
    if program == "ray":
        from ray.scripts.scripts import cli
    else:
        assert program == "mlflow"
        from mlflow.cli import cli
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return command.make_context(verb, list(words)).params


def test_the_dockerfile_knows_its_instructions() -> None:
    assert {word for word, _ in instructions()} == {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
    python = given("FROM")[0].removeprefix("python:").removesuffix("-slim")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"].startswith(f">={python},")
    assert "vitray" in project["scripts"]
    assert given("CMD") == ['["vitray", "--help"]']


def test_what_is_copied_is_there() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for rest in given("COPY"):
        *sources, target = rest.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert not any(fnmatch(f"{source}/", f"{pattern.removeprefix('**/')}/*") for pattern in ignored), source
        assert target.endswith("/") or len(sources) == 1
    copied = " ".join(given("COPY")).split()
    configs = (ROOT / "platform/vitray/configs").readlink()
    assert (ROOT / "platform/vitray" / configs).resolve() == ROOT / "configs"
    assert {"configs", "jobs", "platform/vitray", "pyproject.toml", "constraints.txt"} <= set(copied)
    for needed in ("README.md", "LICENSE"):  # pyproject.toml names them, so a wheel cannot be made without
        assert needed in copied


def test_the_image_is_pinned_without_root_and_without_secrets() -> None:
    installs = [rest for rest in given("RUN") if "pip install" in rest]
    assert all("--constraint constraints.txt" in rest or "--no-deps" in rest for rest in installs)
    assert instructions()[-2][0] == "USER"
    assert given("USER") == ["1000"]
    assert any("--uid 1000" in rest for rest in given("RUN"))
    assert not any(_SECRET.search(rest) for _, rest in instructions())
    for file in (".dockerignore", ".gitignore"):
        assert "docker/.env" in {line.lstrip("/") for line in (ROOT / file).read_text().split()}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_the_image_confined(service: str) -> None:
    facts = SERVICES[service]
    assert facts["image"] == "vitray:local"
    assert (FOLDER / facts["build"]["context"] / facts["build"]["dockerfile"]).resolve() == FOLDER / "Dockerfile"
    assert facts["cap_drop"] == ["ALL"]
    assert facts["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in facts
    assert "user" not in facts  # the image's own: no root
    assert facts.get("network_mode") is None


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_published_on_loopback_only(service: str) -> None:
    for port in SERVICES[service].get("ports", []):
        address, outside, inside = port.split(":")
        assert address == "127.0.0.1"
        assert outside.isdecimal()
        assert int(inside) in {v for k, v in options(service).items() if k.endswith("port")}


def test_ray_starts_with_real_flags_and_a_token() -> None:
    head, worker = options("ray-head"), options("ray-worker")
    assert (head["head"], head["block"], worker["head"], worker["block"]) == (True, True, False, True)
    assert worker["address"] == f"ray-head:{head['port']}"
    assert "ports" not in SERVICES["ray-worker"]
    for service in ("ray-head", "ray-worker"):
        facts = SERVICES[service]
        assert facts["environment"]["RAY_AUTH_MODE"] == "token"
        assert facts["environment"]["RAY_AUTH_TOKEN"] == "t"
        assert int(facts["stop_grace_period"].removesuffix("s")) > 30
        assert options(service)["object_store_memory"] < int(facts["shm_size"])  # else Ray puts it on the disk
    assert worker["num_cpus"] == int(SERVICES["ray-worker"]["cpus"])
    with pytest.raises(AssertionError, match=r"copy docker/\.env\.example"):
        services()  # Compose refuses to start without a token


def test_ray_and_mlflow_share_what_they_must() -> None:
    head, worker, server = SERVICES["ray-head"], SERVICES["ray-worker"], SERVICES["mlflow"]
    assert head["environment"] == worker["environment"]
    assert head["volumes"] == worker["volumes"] == ["vitray:/vitray"]
    assert head["environment"]["VITRAY_HOME"] == "/vitray"
    volumes = yaml.safe_load(compose_text())["volumes"]
    owned = next(rest for rest in given("RUN") if "install --directory --owner vitray" in rest).split()
    for mount in [*head["volumes"], *server["volumes"]]:
        name, path = mount.split(":")
        assert name in volumes
        assert path in owned


def test_mlflow_answers_to_the_names_it_is_called_by() -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    facts = options("mlflow")
    for key in ("backend_store_uri", "artifacts_destination"):
        assert "/mlflow/" in facts[key]  # in its volume
    called = SERVICES["ray-head"]["environment"]["MLFLOW_TRACKING_URI"]
    assert called == f"http://mlflow:{facts['port']}"
    hosts = facts["allowed_hosts"].split(",")
    for name in (called.removeprefix("http://"), "localhost:5001", "127.0.0.1:5000"):
        assert is_allowed_host_header(hosts, name)
    assert not is_allowed_host_header(hosts, "rebound.example:5000")


@pytest.mark.parametrize("service", SERVICES)
def test_health_checks_ask_a_real_page_and_can_fail(service: str) -> None:
    from mlflow.server.security_utils import HEALTH_ENDPOINTS
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS  # pages that want no token

    code = health_code(service)
    known = {v for k, v in options(service).items() if k.endswith("port")}
    for port, page in re.findall(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", code):
        assert int(port) in known
        assert page in {*HEALTH_ENDPOINTS, *PUBLIC_EXACT_PATHS, "/api/gcs_healthz"}
    nobody = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", code)
    done = subprocess.run([sys.executable, "-c", nobody], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


def test_dependencies_are_services_with_health_checks() -> None:
    for facts in SERVICES.values():
        for name, how in facts.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            assert "healthcheck" in SERVICES[name]


def test_every_variable_is_in_the_example_and_used() -> None:
    used = {match["name"]: match for match in _VARIABLE.finditer(compose_text())}
    assert set(used) == set(example())
    for name, match in used.items():
        assert example()[name] == (match["text"] if match["kind"] == "-" else "")


def test_executables_are_installed_with_the_package() -> None:
    folder = Path(sys.executable).parent
    for program in {facts["command"][0] for facts in SERVICES.values()} | {"python", "vitray"}:
        assert os.access(folder / program, os.X_OK), program
