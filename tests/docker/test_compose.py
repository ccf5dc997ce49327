"""The container files, read without an engine: what they copy, run, publish and ask for exists.

What this does not show: that the images build, that volumes and limits do what they say. tests/hosts starts the same
commands with the same variables and files in namespaces.
"""

from __future__ import annotations

import configparser
import copy
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from compose_file import (
    FOLDER,
    ROOT,
    VARIABLE,
    compose,
    compose_text,
    example,
    image_environment,
    image_files,
    instructions,
    lineage,
    stages,
)
from schema import complaints

# The warnings are those of the libraries whose flags are read.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
FILE = compose()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = [name for name, facts in SERVICES.items() if "build" in facts]
SERVERS = [name for name, facts in SERVICES.items() if "healthcheck" in facts]
_SECRET = re.compile(r"token|secret|password|credential|key", re.IGNORECASE)


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


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_a_file_fits_the_published_schema(name: str) -> None:
    assert complaints(yaml.safe_load((FOLDER / name).read_text())) == []
    assert complaints(FILE) == []


def test_the_schema_can_say_no() -> None:
    spoilt = copy.deepcopy(FILE)
    spoilt["services"]["mlflow"]["reed_only"] = True
    spoilt["services"]["postgres"]["mem_limit"] = ["1g"]
    said = complaints(spoilt)
    assert any("reed_only" in one for one in said)
    assert any(one.startswith("services.postgres.mem_limit") for one in said)


def test_the_gpu_file_adds_to_services_that_exist() -> None:
    assert set(yaml.safe_load((FOLDER / "compose.gpu.yaml").read_text())["services"]) <= set(SERVICES)


def test_the_dockerfile_knows_its_instructions() -> None:
    known = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
    assert {word for word, _ in instructions()} == known
    python = stages()["base"][0].removeprefix("python:").removesuffix("-slim")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"].startswith(f">={python},")
    assert "vitray" in project["scripts"]
    for origin, _ in stages().values():
        assert origin in stages() or origin == "python:3.11-slim"
    copied = re.findall(r"--from=(\S+)", " ".join(given("COPY")))
    assert set(copied) == {"build-cuda", "build-cpu", "build-mlflow"} <= set(stages())


def test_what_is_copied_is_there() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for rest in given("COPY"):
        if rest.startswith("--from"):
            continue
        *sources, target = rest.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert not any(fnmatch(f"{source}/", f"{pattern.removeprefix('**/')}/*") for pattern in ignored), source
        assert target.endswith("/") or len(sources) == 1
    for stage in ("build-cuda", "build-cpu"):
        copied = {str(path.relative_to(ROOT)) for path in image_files(stage).values()}
        # pyproject.toml names README.md and LICENSE, so a wheel cannot be made without.
        assert {"configs", "platform/vitray", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= copied
    configs = (ROOT / "platform/vitray/configs").readlink()
    assert (ROOT / "platform/vitray" / configs).resolve() == ROOT / "configs"


@pytest.mark.parametrize("stage", ["cpu", "cuda", "mlflow"])
def test_an_image_is_pinned_without_root_and_without_secrets(stage: str) -> None:
    installs = [rest for word, rest in lineage(f"build-{stage}") if word == "RUN" and "pip install" in rest]
    assert installs
    for part in (part for rest in installs for part in rest.split("&&") if "pip install" in part):
        assert "--constraint constraints.txt" in part or "--no-deps --force-reinstall ." in part
    own = lineage(stage)
    assert [rest for word, rest in own if word == "USER"] == ["${VITRAY_UID}"]
    assert own[-2:] == [("USER", "${VITRAY_UID}"), ("CMD", own[-1][1])]
    assert any("--uid ${VITRAY_UID}" in rest for word, rest in own if word == "RUN")
    assert not any(_SECRET.search(rest) for _, rest in [*own, *lineage(f"build-{stage}")])


def test_secrets_and_settings_stay_out_of_images_and_git() -> None:
    for file in (".dockerignore", ".gitignore"):
        left_out = {line.strip("/") for line in (ROOT / file).read_text().split()}
        assert {"docker/.env", "docker/secrets"} <= left_out


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_confined(service: str) -> None:
    facts = SERVICES[service]
    assert facts["cap_drop"] == ["ALL"]
    assert facts["security_opt"] == ["no-new-privileges:true"]
    assert facts["read_only"] is True
    assert facts["init"] is True
    assert facts["user"] == "1000"
    assert facts["mem_limit"]
    assert facts["pids_limit"]
    assert not {"privileged", "network_mode", "pid", "ipc", "devices"} & set(facts)
    written = {mount.partition(":")[0] for mount in facts["tmpfs"]}
    assert "/tmp" in written
    if service in OURS:
        assert (FOLDER / facts["build"]["context"] / facts["build"]["dockerfile"]).resolve() == FOLDER / "Dockerfile"
        assert facts["build"]["target"] in stages()
        assert image_environment(facts["build"]["target"])["HOME"] in written
        arguments = {rest.partition("=")[0] for word, rest in instructions() if word == "ARG"}
        assert set(facts["build"]["args"]) <= arguments
        assert str(facts["build"]["args"]["VITRAY_UID"]) == facts["user"]  # who may read the secrets' files


@pytest.mark.parametrize("service", OURS)
def test_volumes_are_folders_of_the_user(service: str) -> None:
    owned = next(rest for word, rest in lineage("base") if word == "RUN" and "install --directory --owner" in rest)
    for mount in SERVICES[service].get("volumes", []):
        name, path = mount.split(":")
        assert name in FILE["volumes"]
        assert path in owned.split()


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_published_on_loopback_only(service: str) -> None:
    for port in SERVICES[service].get("ports", []):
        address, outside, inside = port.split(":")
        assert address == "127.0.0.1"
        assert outside.isdecimal()
        assert int(inside) in {v for k, v in options(service).items() if k.endswith("port")}


def test_the_database_is_on_a_network_of_its_own() -> None:
    assert FILE["networks"]["database"] == {"internal": True}
    members = {name for name, facts in SERVICES.items() if "database" in facts["networks"]}
    assert members == {"mlflow", "postgres"}
    assert SERVICES["postgres"]["networks"] == ["database"]
    assert "ports" not in SERVICES["postgres"]


def test_ray_starts_with_real_flags_and_a_token() -> None:
    head, worker = options("ray-head"), options("ray-worker")
    assert (head["head"], head["block"], worker["head"], worker["block"]) == (True, True, False, True)
    assert worker["address"] == f"ray-head:{head['port']}"
    assert "ports" not in SERVICES["ray-worker"]
    for service in ("ray-head", "ray-worker"):
        facts = SERVICES[service]
        assert facts["environment"]["RAY_AUTH_MODE"] == "token"
        assert facts["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_auth_token"
        assert "ray_auth_token" in facts["secrets"]
        assert int(facts["stop_grace_period"].removesuffix("s")) > 30
        assert options(service)["object_store_memory"] < int(facts["shm_size"])  # else Ray puts it on the disk
    assert worker["num_cpus"] == int(SERVICES["ray-worker"]["cpus"])
    shared = {
        name for name in head if name.endswith("port") and worker[name] and name not in ("port", "dashboard_port")
    }
    assert {"node_manager_port", "object_manager_port", "metrics_export_port", "min_worker_port"} <= shared
    assert all(head[name] == worker[name] for name in shared)


def test_ray_and_mlflow_share_what_they_must() -> None:
    head, worker = SERVICES["ray-head"], SERVICES["ray-worker"]
    assert head["environment"] == worker["environment"]
    assert head["volumes"] == worker["volumes"] == ["vitray:/vitray"]
    assert head["environment"]["VITRAY_HOME"] == "/vitray"
    home = image_environment("cuda")["HOME"]
    assert {"source": "mlflow_credentials", "target": f"{home}/.mlflow/credentials"} in head["secrets"]


def test_mlflow_answers_to_the_names_it_is_called_by() -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    facts = options("mlflow")
    assert facts["app_name"] == "basic-auth"
    assert facts["artifacts_destination"].startswith("/mlflow/")  # in its volume
    assert facts["backend_store_uri"] == "postgresql+psycopg://mlflow@postgres:5432/mlflow"  # no password in it
    called = SERVICES["ray-head"]["environment"]["MLFLOW_TRACKING_URI"]
    assert called == f"http://mlflow:{facts['port']}" == SERVICES["mlflow-user"]["environment"]["MLFLOW_TRACKING_URI"]
    hosts = facts["allowed_hosts"].split(",")
    for name in (called.removeprefix("http://"), "localhost:5001", "127.0.0.1:5000"):
        assert is_allowed_host_header(hosts, name)
    assert not is_allowed_host_header(hosts, "rebound.example:5000")
    auth = configparser.ConfigParser()
    auth.read(FOLDER / "mlflow-auth.ini")
    assert auth["mlflow"]["database_uri"] == facts["backend_store_uri"]
    assert "admin_password" not in auth["mlflow"]


def test_no_secret_is_in_a_command_or_a_variable() -> None:
    for name, facts in SERVICES.items():
        assert not any(_SECRET.search(word) for word in facts["command"]), name
        for key, value in facts.get("environment", {}).items():
            assert not _SECRET.search(key) or str(value).startswith("/run/secrets/") or key == "RAY_AUTH_MODE", key
    assert not any(_SECRET.search(name) for name in example())


def test_secrets_are_made_once_for_their_reader_alone(tmp_path: Path) -> None:
    folder = tmp_path / "docker"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("secrets", ".env"))
    ran = subprocess.run([folder / "secrets.sh"], capture_output=True, text=True, check=True)
    made = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    for name, facts in FILE["secrets"].items():
        path = folder / facts["file"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_uid == (os.getuid() or 1000)
        assert made[name]
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700
    passwords = [text for name, text in made.items() if name not in ("pgpass", "mlflow_credentials")]
    assert len(set(passwords)) == len(passwords) == 5
    assert all(re.fullmatch(r"[0-9a-f]{64}", text) for text in passwords)
    assert not any(text in ran.stdout + ran.stderr for text in passwords)
    assert made["postgres_password"] in made["pgpass"]
    assert made["mlflow_user_password"] in made["mlflow_credentials"]
    settings = (folder / ".env").read_text()
    assert f"VITRAY_UID={os.getuid() or 1000}\n" in settings
    (folder / ".env").write_text("WORKER_CPUS=9\n")
    subprocess.run([folder / "secrets.sh"], capture_output=True, check=True)
    assert {path.name: path.read_text() for path in (folder / "secrets").iterdir()} == made
    assert (folder / ".env").read_text() == "WORKER_CPUS=9\n"


def test_variables_are_filled_from_files_for_the_command_alone(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("a b'\"$c\n")
    command = ["sh", FOLDER / "from-files.sh", "sh", "-c", 'printf %s "$MLFLOW_X|${MLFLOW_X_FILE-gone}|$SSL_CERT_FILE"']
    env = {"PATH": os.environ["PATH"], "MLFLOW_X_FILE": str(tmp_path / "p"), "SSL_CERT_FILE": "/c"}
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout == "a b'\"$c|gone|/c"
    missing = subprocess.run(command, env={**env, "MLFLOW_X_FILE": "/no"}, capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert "/no" in missing.stderr
    for name in ("mlflow", "mlflow-user"):
        entry = SERVICES[name]["entrypoint"]
        assert image_files("mlflow")[entry[1]] == FOLDER / "from-files.sh"
        for key, value in SERVICES[name]["environment"].items():
            if str(value).startswith("/run/secrets/"):
                assert value.removeprefix("/run/secrets/") in SERVICES[name]["secrets"], key
    script = SERVICES["mlflow-user"]["command"][1]
    assert image_files("mlflow")[script] == FOLDER / "mlflow-user.py"


@pytest.mark.parametrize("service", [name for name in SERVERS if name != "postgres"])
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


def test_dependencies_are_services_that_can_be_waited_for() -> None:
    for facts in SERVICES.values():
        for name, how in facts.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[name]["restart"] == "on-failure"


def test_every_variable_is_in_the_example_and_used() -> None:
    used = {match["name"]: match for match in VARIABLE.finditer(compose_text())}
    assert set(used) == set(example())
    for name, match in used.items():
        assert example()[name] == (match["text"] if match["kind"] == "-" else "")


def test_executables_are_installed_with_the_package() -> None:
    folder = Path(sys.executable).parent
    for program in {SERVICES[name]["command"][0] for name in OURS} | {"python", "vitray"}:
        assert os.access(folder / program, os.X_OK), program
