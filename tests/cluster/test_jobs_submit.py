"""`vitray jobs` on a real head: what is refused before it is sent, what jobs wait for, and what others can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray_head import Head
from submitted import Jobs, can_be_elsewhere

from vitray.cluster.job_package import of_vitray, send

pytestmark = pytest.mark.ray

SMALL = "model: {patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}\ncluster: {use_gpu: false}\n"


@pytest.fixture(scope="module")
def jobs(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    folder = tmp_path_factory.mktemp("submit")
    (folder / "c.yaml").write_text(f"data: {{path: builtin:digits}}\n{SMALL}")
    (folder / "relative.yaml").write_text(f"data: {{path: ds}}\n{SMALL}")
    return Jobs(head, folder)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "no.yaml"), "there is no such config file"),
        (("train",), "needs a config file"),
        (("train", "c.yaml", "model.dept=3"), "did you mean 'model.depth'"),
        (("sweep", "c.yaml"), "has no space to search"),
        (("train", "c.yaml", "cluster.workers=9"), "9 workers need 9 CPUs, but the cluster has 3 (1 node with 3 CPUs)"),
        (("train", "c.yaml", "--worker-gpus", "2"), "2 workers need 2 GPUs, but the cluster has 0"),
        (("train", "relative.yaml"), "/ds: does not exist"),
        (("predict", "models:/m", "a.png"), "--to FILE"),
        (("predict", "models:/m", "s3://me:planted@b/x", "--to", "x.csv"), "SOURCE...: holds a credential"),
        (("train", "c.yaml", "data.path=s3://me:planted@b/ds"), "data.path: holds a credential"),
        (("train", "c.yaml", "--env", "HF_TOKEN=planted"), "HF_TOKEN: is a credential by its name"),
        (("trian", "c.yaml"), "No such command 'trian'"),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_sent(jobs: Jobs, words: tuple[str, ...], says: str) -> None:
    before = len(jobs.dashboard.get("/api/jobs/"))
    done = jobs("submit", *words)
    assert done.code == 2
    assert says in done.err, done.err
    assert done.out == ""
    assert "planted" not in done.err
    assert len(jobs.dashboard.get("/api/jobs/")) == before


@pytest.mark.skipif(not can_be_elsewhere(), reason="only root may have folders of its own")
@pytest.mark.parametrize(
    ("words", "variables", "says"),
    [
        (("train", "relative.yaml"), {}, "data.path: 'ds' is on this machine, and the cluster is another"),
        (("prepare", "photos", "s3://bucket/ds"), {}, "SOURCE: 'photos' is on this machine"),
        (("predict", "models:/m", "/shared/x", "--to", "out.csv"), {}, "--to: 'out.csv' is on this machine"),
        (("train", "c.yaml"), {}, "is set for this machine, and the cluster is another"),
        (("train", "c.yaml"), {"VITRAY_HOME": "", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}, "loopback"),
    ],
)
def test_what_the_cluster_cannot_see_is_refused(
    jobs: Jobs, words: tuple[str, ...], variables: dict[str, str], says: str
) -> None:
    done = jobs("submit", *words, elsewhere=True, **variables)
    assert done.code == 2
    assert says in done.err, done.err
    assert "-> " in done.err


def test_a_wrong_token_and_no_token(jobs: Jobs) -> None:
    assert "wants a token" in jobs("list", RAY_AUTH_TOKEN="", RAY_AUTH_TOKEN_PATH="/nowhere").err
    for address in (jobs.head.url, jobs.head.address):
        done = jobs("list", "--address", address, RAY_AUTH_TOKEN="planted" * 8)
        assert done.code == 2
        assert "refuses the token" in done.err
        assert "planted" not in done.err
    assert jobs("list", "--address", jobs.head.address).code == 0


def test_the_vitray_that_is_sent_is_the_one_that_runs(jobs: Jobs) -> None:
    """With -S, Python does not know what is installed: as on a cluster whose machines lack vitray."""
    package = of_vitray()
    send(jobs.dashboard, package)
    assert not send(jobs.dashboard, package)
    show = "python -S -c 'import vitray; print(vitray.__file__); raise SystemExit(1)'"
    job = jobs.raw(show, py_modules=[package.uri])
    waited = jobs("wait", job[:-2])
    assert waited.code == 1
    assert f"{job}: failed after" in waited.err
    assert f"py_modules_files/{package.name.removesuffix('.zip')}/vitray/__init__.py" in jobs("logs", job).out
    assert jobs("logs", job, "--tail", "1").out.endswith("vitray/__init__.py\n")


def test_nothing_secret_is_in_what_all_can_read(jobs: Jobs) -> None:
    """The secrets of whoever submits stay with them; the job says what it thinks of its data."""
    planted = {"AWS_SECRET_ACCESS_KEY": "planted-secret-1", "MLFLOW_TRACKING_PASSWORD": "planted-secret-2"}
    address = "data.path=nowhere://127.0.0.1:9/ds"
    done = jobs("submit", "train", "c.yaml", address, "--name", "secretive", "--follow", **planted)
    assert done.code == 2, done.err
    assert "error: nowhere://127.0.0.1:9/ds" in done.out
    status = jobs("status", "secretive")
    assert "failed after" in status.out
    assert "error: nowhere://" in status.out
    (job,) = [one for one in jobs.dashboard.get("/api/jobs/") if "secretive" in (one["submission_id"] or "")]
    assert job["entrypoint"] == "python -m vitray.cli.job train c.yaml"
    assert job["metadata"]["vitray.name"] == "secretive"
    assert job["runtime_env"]["env_vars"]["VITRAY_HOME"] == str(jobs.home)
    everything = json.dumps(job) + jobs.log(job["submission_id"]) + done.out + done.err + status.out
    assert "planted" not in everything
    assert not jobs.home.exists(), "a refused training leaves nothing"


def test_a_job_that_waits_says_for_what_and_is_left_running(jobs: Jobs, tmp_path: Path) -> None:
    """A job of somebody else's, which asks for more CPUs than are free."""
    script = tmp_path / "waits.py"
    script.write_text(
        "import time, ray\nfrom ray.util.placement_group import placement_group\n"
        "ray.init(log_to_driver=False)\ngroup = placement_group([{'CPU': 2}, {'CPU': 2}])\n"
        "print('asked', flush=True)\ntime.sleep(600)\n"
    )
    job = jobs.raw(f"python {script}")
    jobs.until(lambda: "asked" in jobs.log(job))
    (row,) = [row for row in jobs("list", "--output", "json").said if row["id"] == job]
    assert row["status"] == "running"
    assert row["waits_for"] == "2 x 2 CPUs; free: 3 of 3 CPUs"
    assert "waits for 2 x 2 CPUs" in jobs("status", job).out

    left = jobs.interrupted("logs", "-f", job, when=lambda out: "asked" in out)
    assert left.code == 130
    assert f"{job} goes on without you" in left.err
    assert f"vitray jobs logs -f {job}" in left.err
    impatient = jobs("wait", job, "--timeout", "0")
    assert impatient.code == 1
    assert "is still running after 0 s" in impatient.err

    assert jobs("stop", job).code == 0
    assert jobs("wait", job).code == 130
    assert f"{job} had ended before: stopped" in jobs("stop", job).err
