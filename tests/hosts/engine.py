"""docker/compose.yaml brought up without an engine: each service's own command, environment, files and health check."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compose_file import FOLDER, compose, image_environment
from container import Container, Spec
from images import image_of
from names import NameServer
from network import Networks, ip
from relay import Relay, free_ports

_PATIENCE_S = 120.0
_RESTARTS = 2  # a Ray node ends if one of its parts has waited for another for 30 s, as on a machine that is very busy
_SECONDS = {"s": 1.0, "m": 60.0, "": 1.0}


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([sm]?)", text).groups()  # type: ignore[union-attr]
    return float(number) * _SECONDS[unit]


@contextlib.contextmanager
def small_cluster() -> Iterator[Engine]:
    """The whole file, with two workers of one CPU: all of it shares one machine. Whatever happens, nothing is left."""
    dashboard, mlflow = free_ports(2)
    engine = Engine(
        VITRAY_UID="1000",
        WORKER_CPUS="1",
        OBJECT_STORE_BYTES="150000000",
        SHARED_MEMORY_BYTES="260000000",
        RAY_DASHBOARD_PORT=str(dashboard),
        MLFLOW_PORT=str(mlflow),
    )
    run = engine.networks.run
    try:
        engine.up(ray_worker=2)
        yield engine
    finally:
        engine.remove()
    assert f"v{run}" not in ip("netns", "list") + ip("-o", "link")


class Engine:
    """One run of the file. ``variables`` are those of docker/.env; secrets are made anew by docker/secrets.sh."""

    def __init__(self, **variables: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vitray-hosts-"))
        self.variables = variables
        self.uid = int(variables["VITRAY_UID"])
        self.networks = Networks()
        self.containers: dict[str, Container] = {}
        self.relays: dict[str, Relay] = {}  # by container
        self._servers: list[NameServer] = []
        self._make_docker_folder()
        self.file = compose(**variables)

    def _make_docker_folder(self) -> None:
        """A copy of docker/, in which docker/secrets.sh makes secrets as a person would."""
        self.docker = self.folder / "docker"
        shutil.copytree(FOLDER, self.docker, ignore=shutil.ignore_patterns("secrets", ".env"))
        done = subprocess.run([self.docker / "secrets.sh"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        subprocess.run(["chown", "-R", str(self.uid), self.docker / "secrets"], check=True)

    def volume(self, name: str) -> Path:
        """A named volume: an empty one takes the owner of the folder of the image that it is mounted on."""
        here = self.folder / "volumes" / name
        here.mkdir(parents=True, exist_ok=True)
        os.chown(here, self.uid, self.uid)
        return here

    def secret(self, name: str) -> str:
        return (self.docker / "secrets" / name).read_text().strip()

    def secret_file(self, name: str) -> Path:
        return self.docker / "secrets" / name

    def up(self, **scale: int) -> None:
        """Start the services, each when those that it depends on are as it wants them."""
        for name, facts in (self.file["networks"] or {}).items():
            self.networks.add_network(name, internal=bool((facts or {}).get("internal")))
            self._servers.append(NameServer(f"{self.networks.networks[name].prefix}.1", self._lookup))
        waiting = list(self.file["services"])
        while waiting:
            ready = [s for s in waiting if not set(self._facts(s).get("depends_on", {})) & set(waiting)]
            assert ready, f"services that wait for one another: {waiting}"
            for service in ready:
                waiting.remove(service)
                for name, how in self._facts(service).get("depends_on", {}).items():
                    self.wait(name, how["condition"])
                for _ in range(scale.get(service.replace("-", "_"), 1)):
                    self.add(service)
        for service in self.file["services"]:
            if "healthcheck" in self._facts(service):
                self.wait(service, "service_healthy")

    def add(self, service: str) -> Container:
        """One more container of a service, as ``--scale`` makes it."""
        facts = self._facts(service)
        number = 1 + sum(name.startswith(f"{service}-") for name in self.containers)
        name = f"{service}-{number}"
        joined = list(facts["networks"])
        namespace, addresses = self.networks.add_namespace(name, joined)
        spec = self._spec(service, name)
        container = Container(name, namespace, addresses, spec, self.folder / name)
        self.containers[name] = container
        self._write_names(container)
        container.start()
        for port in facts.get("ports", []):
            outside, published, inside = port.split(":")
            self.relays[name] = Relay(outside, int(published), (next(iter(addresses.values())), int(inside)))
        return container

    def of(self, service: str) -> list[Container]:
        return [one for name, one in self.containers.items() if name.rpartition("-")[0] == service]

    def stranger(self, network: str) -> Container:
        """Somebody else's container on a network: no secrets, the programs of the image, and ``tests`` beside them.

        It may look into the volume of the cluster, so that it knows what its attacks have done.
        """
        name = f"stranger-{1 + len(self.of('stranger'))}"
        namespace, addresses = self.networks.add_namespace(name, [network])
        environment = image_environment("cuda")
        tmpfs = [("/tmp", "exec,mode=1777"), (environment["HOME"], "mode=0777")]
        files = [
            *self._names(name),
            ("/tests", FOLDER.parent / "tests", "ro"),
            ("/vitray", self.volume("vitray"), "ro"),
        ]
        spec = Spec(["sleep", "infinity"], environment, str(self.uid), name, files, tmpfs, [], True)
        self.containers[name] = container = Container(name, namespace, addresses, spec, self.folder / name)
        self._write_names(container)
        container.start()
        return container

    def wait(self, service: str, condition: str) -> None:
        """Until all containers of a service are healthy, or have ended well."""
        facts = self._facts(service)
        check = facts.get("healthcheck", {})
        patience = _PATIENCE_S
        if condition == "service_healthy":
            patience = seconds(check["start_period"]) + check["retries"] * seconds(check["interval"])
        for container in self.of(service):
            for restarts in range(_RESTARTS + 1):
                deadline = time.monotonic() + patience
                while container.running() and time.monotonic() < deadline:
                    if condition == "service_healthy" and self.healthy(container, check):
                        break
                    time.sleep(0.5)
                else:
                    ended_well = condition == "service_completed_successfully" and container.exit_code() == 0
                    if not ended_well:
                        assert not container.running(), f"{container.name} is not healthy:\n{container.log}"
                        assert facts["restart"] != "no", f"{container.name} ended:\n{container.log}"
                        assert restarts < _RESTARTS, f"{container.name} ended again and again:\n{container.log}"
                        container.start()
                        continue
                break

    def healthy(self, container: Container, check: dict[str, Any]) -> bool:
        kind, *command = check["test"]
        assert kind == "CMD"
        return container.run(*command, timeout=seconds(check["timeout"])).returncode == 0

    def remove(self) -> None:
        """Whatever state it is in: no process, namespace, bridge or file is left."""
        for relay in self.relays.values():
            relay.close()
        left = [container.name for container in self.containers.values() if not container.kill()]
        for server in self._servers:
            server.close()
        self.networks.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left, f"processes of {left} outlived SIGKILL"

    def _facts(self, service: str) -> dict[str, Any]:
        return self.file["services"][service]

    def _lookup(self, sender: str, name: str) -> list[str]:
        """The addresses of a service or container, for who shares a network with it."""
        asking = next((one for one in self.containers.values() if sender in one.addresses.values()), None)
        return [
            one.addresses[network]
            for one in self.containers.values()
            if name in (one.name, one.name.rpartition("-")[0], one.spec.hostname)
            for network in one.addresses
            if asking is not None and network in asking.addresses
        ]

    def _names(self, name: str) -> list[tuple[str, Path, str]]:
        return [(f"/etc/{file}", self.folder / name / file, "ro") for file in ("hosts", "resolv.conf")]

    def _write_names(self, container: Container) -> None:
        """As an engine does: its own name in the hosts file, all others by the name server."""
        container.folder.mkdir(exist_ok=True)
        network, own = next(iter(container.addresses.items()))
        (container.folder / "hosts").write_text(f"127.0.0.1 localhost\n{own} {container.spec.hostname}\n")
        server = f"{self.networks.networks[network].prefix}.1"
        (container.folder / "resolv.conf").write_text(f"nameserver {server}\noptions ndots:0\n")

    def _spec(self, service: str, name: str) -> Spec:
        facts = self._facts(service)
        for key in ("init", "read_only"):
            assert facts[key] is True
        (self.folder / "empty").mkdir(exist_ok=True)
        image = image_of(facts, self.folder / "empty")
        files = [*image.files, *self._names(name), ("/etc/passwd", self._passwd(), "ro")]
        for volume in facts.get("volumes", []):
            source, target = volume.split(":")
            files.append((target, self.volume(source), "rw"))
        for secret in facts.get("secrets", []):
            given = {"source": secret, "target": secret} if isinstance(secret, str) else secret
            target = given["target"] if given["target"].startswith("/") else f"/run/secrets/{given['target']}"
            files.append((target, self.docker / self.file["secrets"][given["source"]]["file"], "ro"))
        for config in facts.get("configs", []):
            files.append((config["target"], self.docker / self.file["configs"][config["source"]]["file"], "ro"))
        tmpfs = [(mount.partition(":")[0], mount.partition(":")[2]) for mount in facts.get("tmpfs", [])]
        tmpfs.append(("/dev/shm", f"mode=1777,size={facts.get('shm_size', '64m')}"))
        return Spec(
            command=[*(facts.get("entrypoint") or image.entrypoint), *facts["command"]],
            environment=image.environment | {key: str(value) for key, value in facts.get("environment", {}).items()},
            user=str(facts["user"]),
            hostname=f"v{self.networks.run}-{name}",
            files=files,
            tmpfs=tmpfs,
            folders=["/run/secrets"],
            read_only=facts["read_only"],
            work=image.work,
            stop_signal=image.stop_signal,
            stop_grace_s=seconds(facts.get("stop_grace_period", "10s")),
        )

    def _passwd(self) -> Path:
        """The image's Dockerfile makes this user."""
        path = self.folder / "passwd"
        path.write_text(f"root:x:0:0::/root:/bin/sh\nvitray:x:{self.uid}:{self.uid}::/home/vitray:/bin/sh\n")
        return path
