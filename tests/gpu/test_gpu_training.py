"""Training on a GPU: the losses of the CPU, of either precision, through a worker group and NCCL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_runs import small_experiment, train
from torch.nn.parallel import DistributedDataParallel

from vitray.cluster.local import Cluster
from vitray.experiment import ClusterConfig
from vitray.models import VisionTransformer
from vitray.train.ranks import Ranks, accumulating
from vitray.train.report import Report
from vitray.train.resources import plan_groups
from vitray.train.worker_group import WorkerGroup

pytestmark = pytest.mark.gpu


def losses(reports: list[Report]) -> list[float]:
    return [report.metrics[f"{split}/loss"] for report in reports for split in ("train", "val")]


@pytest.mark.ray
def test_a_group_on_a_gpu_trains_as_the_cpu_does(
    gpu: torch.device, cluster: Cluster, digits: Path, tmp_path: Path
) -> None:
    experiment = small_experiment(digits, model__dropout=0.0, train__precision="float32")
    plan = plan_groups(ClusterConfig(workers=1, use_gpu=True), cpus=cluster.cpus, gpus=cluster.gpus)
    assert plan.use_gpu
    reports: list[Report] = []
    free: list[int] = []
    before = torch.cuda.mem_get_info(gpu)[0]
    group = WorkerGroup(plan)

    def take(report: Report) -> bool:
        reports.append(report)
        free.append(torch.cuda.mem_get_info(gpu)[0])
        return True

    try:
        group.run(experiment, tmp_path / "gpu", take)
    finally:
        group.close()
    assert [report.epoch for report in reports] == [1, 2]
    assert min(free) < before, "the rank has a context on the GPU"
    assert losses(reports) == pytest.approx(losses(train(experiment, tmp_path / "cpu")), rel=0.01)


def test_bfloat16_losses_stay_near_those_of_float32(gpu: torch.device, digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits, model__dropout=0.0, model__embed_dim=64, train__epochs=4)
    full, low, auto = (
        losses(train(experiment.with_values({"train.precision": p}), tmp_path / p, ranks=Ranks(device=gpu)))
        for p in ("float32", "bfloat16", "auto")
    )
    assert low != full, "autocast had no effect"
    assert low == pytest.approx(full, rel=0.02)
    assert auto == pytest.approx(low if torch.cuda.is_bf16_supported() else full, rel=1e-3)
    assert full[-1] < full[1], "it learns meanwhile"


@pytest.fixture
def nccl(gpu: torch.device, tmp_path: Path) -> Iterator[Ranks]:
    """A process group of one; ranks that know of a second, since with one they would not ask NCCL for anything."""
    torch.cuda.set_device(gpu)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1, device_id=gpu)
    yield Ranks(0, 2, gpu)
    dist.destroy_process_group()


def test_collectives_run_over_nccl(nccl: Ranks) -> None:
    assert dist.get_backend() == "nccl"
    values = torch.tensor([1.5, 2.5], dtype=torch.float64, device=nccl.device)
    assert nccl.sum(values.clone()).tolist() == [1.5, 2.5]
    assert nccl.agree(True)
    assert not nccl.agree(False)


def test_gradients_through_ddp_are_the_models_own(nccl: Ranks, digits: Path) -> None:
    config = small_experiment(digits, model__dropout=0.0).model
    torch.manual_seed(0)
    plain = VisionTransformer(config).to(nccl.device)
    model = VisionTransformer(config).to(nccl.device)
    model.load_state_dict(plain.state_dict())
    wrapped = nccl.wrap(model)
    assert isinstance(wrapped, DistributedDataParallel)
    images = torch.randn(2, 8, 1, 8, 8, device=nccl.device)
    for last, part in enumerate(images):
        plain(part).square().sum().backward()
        with accumulating(wrapped, last=bool(last)):
            wrapped(part).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
