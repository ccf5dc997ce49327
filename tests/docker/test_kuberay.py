"""docker/kuberay without a Kubernetes: the objects fit their published schemas, and what they name exists."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_file import FOLDER as DOCKER
from compose_file import ROOT, compose, image_environment, image_files, stages
from schema import complaints

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
FOLDER = DOCKER / "kuberay"
NAMES = ("namespace", "storage", "postgres", "mlflow", "raycluster", "rayjob", "disruption", "network")
OBJECTS: list[dict[str, Any]] = [
    document for name in NAMES for document in yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text())
]


def named(kind: str, name: str) -> dict[str, Any]:
    return next(one for one in OBJECTS if one["kind"] == kind and one["metadata"].get("name") == name)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod templates, by a name for messages."""
    for one in OBJECTS:
        spec = one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one["metadata"]["name"], spec["template"]
        elif one["kind"] == "RayCluster":
            yield "head", spec["headGroupSpec"]["template"]
            yield from ((group["groupName"], group["template"]) for group in spec["workerGroupSpecs"])
        elif one["kind"] == "RayJob":
            yield "submitter", spec["submitterPodTemplate"]


PODS = dict(pods())
CLUSTER = named("RayCluster", "vitray")
JOB = next(one for one in OBJECTS if one["kind"] == "RayJob")


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in pod["spec"]["containers"][0].get("env", [])}


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']}-{one['metadata'].get('name', 'sweep')}")
def test_an_object_fits_its_schema(one: dict[str, Any]) -> None:
    assert complaints(one) == []


def test_the_schemas_can_say_no() -> None:
    def spoilt(one: dict[str, Any], *path: Any, value: Any) -> list[str]:
        changed = copy.deepcopy(one)
        place = changed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return complaints(changed)

    group = ("spec", "workerGroupSpecs", 0)
    assert any("maxReplica" in said for said in spoilt(CLUSTER, *group, "maxReplica", value=3))
    assert any("'two'" in said for said in spoilt(CLUSTER, *group, "replicas", value="two"))
    container = (*group, "template", "spec", "containers", 0)
    assert any("readyProbe" in said for said in spoilt(CLUSTER, *container, "readyProbe", value={}))
    assert any("'password'" in said for said in spoilt(CLUSTER, "spec", "authOptions", "mode", value="password"))
    assert any("entrypont" in said for said in spoilt(JOB, "spec", "entrypont", value="x"))
    assert spoilt(named("Deployment", "mlflow"), "spec", "template", "spec", "containerz", value=[])
    assert spoilt(named("NetworkPolicy", "shut"), "spec", "podSelector", value="all")


def test_kustomize_lists_every_file_but_the_job() -> None:
    resources = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert {f"{name}.yaml" for name in NAMES} - {"rayjob.yaml"} == set(resources)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_kustomize_makes_valid_objects_of_it() -> None:
    done = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    assert len(made) == len(OBJECTS) - 1
    assert [said for one in made for said in complaints(one)] == []
    assert all(one["metadata"].get("namespace", "vitray") == "vitray" for one in made)
    assert "image: vitray" not in done.stdout  # the registry's names are in their place
    job = JOB["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"]
    assert f"image: {job}\n" in done.stdout


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_confined(name: str) -> None:
    """The profile "restricted" of Kubernetes' pod security standards, and a root that cannot be written."""
    pod = PODS[name]["spec"]
    contexts = [container["securityContext"] for container in pod["containers"]]
    if name == "head":
        contexts.append(CLUSTER["spec"]["autoscalerOptions"]["securityContext"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert all(context["allowPrivilegeEscalation"] is False for context in contexts)
    assert all(context["readOnlyRootFilesystem"] is True for context in contexts)
    assert all(context["capabilities"] == {"drop": ["ALL"]} for context in contexts)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod.get("volumes", []))
    if name != "head":  # whose autoscaler asks Kubernetes for nodes
        assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", PODS)
def test_a_pod_can_write_where_its_program_does(name: str) -> None:
    pod = PODS[name]["spec"]
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | ({"data"} if name == "postgres" else set())
    for container in pod["containers"]:
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) <= volumes
        if name == "mlflow-user":
            continue
        assert "/tmp" in mounts
        if container["image"].partition(":")[0].endswith(("vitray", "vitray-mlflow")):
            assert image_environment("cuda")["HOME"] in mounts
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod.get("volumes", []) if len(volume) == 2
              and "persistentVolumeClaim" in volume}  # fmt: skip
    assert claims <= {one["metadata"]["name"] for one in OBJECTS if one["kind"] == "PersistentVolumeClaim"}


def test_every_secret_is_made_by_the_script_and_stands_in_no_file(tmp_path: Path) -> None:
    shutil.copytree(DOCKER, tmp_path / "docker", ignore=shutil.ignore_patterns("secrets", ".env"))
    script = tmp_path / "docker" / "kuberay" / "secrets.sh"
    early = subprocess.run([script], capture_output=True, text=True, check=False)
    assert early.returncode == 2
    assert "docker/secrets.sh" in early.stderr
    subprocess.run([tmp_path / "docker" / "secrets.sh"], check=True, capture_output=True)
    made = list(yaml.safe_load_all(subprocess.run([script], check=True, capture_output=True, text=True).stdout))
    assert [said for one in made for said in complaints(one)] == []
    known = {one["metadata"]["name"]: set(one["data"]) for one in made}
    assert all(len(value) > 40 for one in made for value in one["data"].values())

    wanted = {CLUSTER["spec"]["authOptions"]["secretName"]: {"auth_token"}}  # the key that KubeRay reads
    for pod in PODS.values():
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume:
                wanted.setdefault(volume["secret"]["secretName"], set()).add("password")
        for container in pod["spec"]["containers"]:
            for one in container.get("env", []):
                if "valueFrom" in one:
                    key = one["valueFrom"]["secretKeyRef"]
                    wanted.setdefault(key["name"], set()).add(key["key"])
                else:
                    secret = ("PASSWORD", "TOKEN", "SECRET", "KEY")
                    assert not one["name"].endswith(secret), one["name"]
    assert wanted == known
    assert not any(one["kind"] == "Secret" for one in OBJECTS)


def test_ray_is_started_with_real_flags_a_token_and_the_pinned_version() -> None:
    from ray.scripts.scripts import start

    flags = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    groups = [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]
    for group in groups:
        assert set(group["rayStartParams"]) <= flags
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert groups[0]["rayStartParams"]["num-cpus"] == "0"
    assert CLUSTER["spec"]["rayVersion"] == version("ray")
    assert CLUSTER["spec"]["authOptions"]["mode"] == "token"
    for group in groups[1:]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    resources = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups[1:]]
    assert [limits.get("nvidia.com/gpu") for limits in resources] == [None, "1"]


def test_probes_ask_real_pages_of_declared_ports() -> None:
    from mlflow.server.security_utils import HEALTH_ENDPOINTS
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    asked = 0
    for pod in PODS.values():
        for container in pod["spec"]["containers"]:
            ports = {port["name"] for port in container.get("ports", [])}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                if (http := container.get(kind, {}).get("httpGet")) is not None:
                    asked += 1
                    assert http["port"] in ports
                    assert http["path"] in {*HEALTH_ENDPOINTS, *PUBLIC_EXACT_PATHS, "/api/gcs_healthz"}
    assert asked == 12
    assert image_environment("cuda")["PATH"].startswith("/opt/venv/bin:")


def test_services_and_policies_meet_their_pods() -> None:
    # KubeRay labels its pods so.
    labels = [pod.get("metadata", {}).get("labels", {}) for pod in PODS.values()]
    labels += [{"ray.io/cluster": "vitray", "ray.io/node-type": kind} for kind in ("head", "worker")]
    labels += [{"ray.io/originated-from-crd": "RayJob"}]
    for one in OBJECTS:
        selector = None
        if one["kind"] == "Service":
            selector = one["spec"]["selector"]
            port = one["spec"]["ports"][0]
            container = PODS[one["metadata"]["name"]]["spec"]["containers"][0]
            assert {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]
        elif one["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            selector = one["spec"].get("podSelector", one["spec"].get("selector", {})).get("matchLabels", {})
        if selector is not None:
            assert any(selector.items() <= found.items() for found in labels), one["metadata"]["name"]
    assert named("NetworkPolicy", "shut")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert (
        named("PodDisruptionBudget", "ray-head")["spec"]["minAvailable"] == 1
    )  # of custom resources nothing else counts


def test_it_is_the_cluster_of_the_compose_file() -> None:
    services = compose()["services"]
    mlflow = PODS["mlflow"]["spec"]["containers"][0]
    assert mlflow["command"] == services["mlflow"]["command"]
    auth = named("ConfigMap", "mlflow-auth")["data"]["auth.ini"]
    bare = [line for line in (DOCKER / "mlflow-auth.ini").read_text().splitlines() if not line.startswith("#")]
    assert auth.splitlines() == bare
    assert PODS["mlflow-user"]["spec"]["containers"][0]["command"] == services["mlflow-user"]["command"]
    ray = services["ray-head"]["environment"]
    for name in ("head", "cpu", "gpu"):
        own = variables(PODS[name])
        tuned = [key for key in ray if key.startswith("RAY_") and "AUTH" not in key]
        assert len(tuned) >= 2
        for key in ("VITRAY_HOME", "MLFLOW_TRACKING_URI", "GOMP_SPINCOUNT", *tuned):
            assert own[key] == ray[key]
    assert PODS["postgres"]["spec"]["containers"][0]["image"] == services["postgres"]["image"]
    names = [one["name"] for one in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["images"]]
    assert names == ["vitray", "vitray-mlflow"]
    assert {"cuda", "cpu", "mlflow"} <= set(stages())


def test_the_job_runs_a_script_and_a_config_of_the_image() -> None:
    words = JOB["spec"]["entrypoint"].split()
    assert words[0] == "python"
    copied = image_files("cuda")
    for path in words[1:3]:
        folder, _, name = path.rpartition("/")
        assert (copied[folder] / name).is_file(), path
    assert JOB["spec"]["clusterSelector"] == {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    assert yaml.safe_load(JOB["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert ROOT / "docker" == DOCKER
