"""A job that is stopped keeps a checkpoint, and goes on to the very weights that it would have had."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray_head import Head
from submitted import Jobs

from vitray.train.checkpoint import CheckpointStore, verify

pytestmark = pytest.mark.ray

EPOCHS = 30


@pytest.fixture(scope="module")
def jobs(head: Head, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    folder = tmp_path_factory.mktemp("stop")
    (folder / "c.yaml").write_text(
        f"data: {{path: {digits}}}\ntrain: {{epochs: {EPOCHS}}}\ncluster: {{use_gpu: false}}\n"
        "model: {patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}\n"
    )
    return Jobs(head, folder)


def weights(jobs: Jobs, run: str) -> bytes:
    """Of a run that was trained to its end."""
    newest = CheckpointStore(jobs.home / "runs" / run / "checkpoints").newest()
    assert newest is not None
    assert verify(newest).step == 10 * EPOCHS
    return (newest / "model.safetensors").read_bytes()


def test_stop_then_resume(jobs: Jobs) -> None:
    whole = jobs("submit", "train", "c.yaml", "--name", "whole", "--follow")
    assert whole.code == 0, whole.out + whole.err
    assert f"epoch {EPOCHS}/{EPOCHS}: loss " in whole.out
    assert "weights: " in whole.out.splitlines()[-2], "the last lines are there too"
    assert ": done after " in whole.err

    submitted = jobs("submit", "train", "c.yaml", "--name", "part", "--output", "json").said
    job = submitted["id"]
    assert job.startswith("train-part-")
    assert submitted["next"]["stop"] == f"vitray jobs stop {job}"
    jobs.until(lambda: "epoch 2/" in jobs.log(job))
    stopped = jobs("stop", "part")
    assert stopped.code == 0
    assert f"{job}: stopped after" in stopped.err
    assert "go on with: vitray jobs submit train --resume part" in stopped.err
    status = jobs("status", job, "--output", "json").said
    assert (status["status"], status["exit_code"]) == ("stopped", 130)
    assert status["goes_on_with"] == "vitray jobs submit train --resume part"
    log = jobs.log(job)
    assert "go on with: vitray train --resume part" in log
    assert "Traceback" not in log
    kept = CheckpointStore(jobs.home / "runs/part/checkpoints").newest()
    assert kept is not None
    step = verify(kept).step
    reported = max(n for n in range(1, EPOCHS) if f"epoch {n}/" in log)
    assert 10 * reported <= step < 10 * EPOCHS, "of the moment of the stop"

    again = jobs("submit", "train", "--resume", "part", "--follow")
    assert again.code == 0, again.out + again.err
    assert "epoch 1/" not in again.out
    assert weights(jobs, "part") == weights(jobs, "whole")
    newest_first = [row["name"] for row in jobs("list", "--output", "json").said]
    assert newest_first[:3] == ["part", "part", "whole"]
