"""What cannot fit into memory is refused before it starts, with what would."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vitray.errors import ResourceError
from vitray.experiment import ClusterConfig, Experiment
from vitray.train.memory import GIB, check_memory, least_rank_memory, rank_images
from vitray.train.resources import plan_groups


def large(**values: Any) -> Experiment:
    base = Experiment(
        data={"path": "nowhere"},
        model={"image_size": 224, "in_chans": 3, "num_classes": 1000, "embed_dim": 384, "num_heads": 6},
        train={"global_batch": 1024, "precision": "bfloat16"},
    )
    return base.with_values({key.replace("__", "."): value for key, value in values.items()})


def test_the_accumulation_offered_is_the_least_doubling_that_fits() -> None:
    with pytest.raises(ResourceError) as refused:
        check_memory(large(), 8 * GIB)
    said = re.search(r"train.accumulate=(\d+)", str(refused.value))
    assert said is not None
    offered = int(said.group(1))
    check_memory(large(train__accumulate=offered), 8 * GIB)
    assert least_rank_memory(large(train__accumulate=offered // 2)) > 8 * GIB
    assert "GiB a rank" in str(refused.value)


def test_a_model_that_is_too_large_by_itself_is_told_so() -> None:
    with pytest.raises(ResourceError, match="not even one image at a time"):
        check_memory(large(), 0.2 * GIB)


def test_ranks_and_accumulation_share_a_step() -> None:
    assert rank_images(large(cluster__workers=4)) == 256
    assert rank_images(large(cluster__workers=(1, 3), train__accumulate=2)) == 171
    assert least_rank_memory(large(cluster__workers=4)) < least_rank_memory(large())


def test_nothing_is_refused_on_a_guess() -> None:
    check_memory(large(), None)  # nothing known of the machine
    check_memory(large(train__freeze="all_but_head", train__init_from="w.pth"), 0.2 * GIB)  # frozen parts cost less


@pytest.mark.parametrize(
    ("workers", "cpus", "node_cpus", "share"), [(1, 2, 2, 1), (2, 2, 2, 2), (4, 16, 4, 1), (8, 16, 8, 4)]
)
def test_a_rank_can_have_its_share_of_the_fullest_node(workers: int, cpus: int, node_cpus: int, share: int) -> None:
    plan = plan_groups(ClusterConfig(workers=workers), cpus=cpus, gpus=0, node_cpus=node_cpus, node_memory=64 * GIB)
    assert plan.rank_memory == 64 * GIB / share


def test_on_gpus_it_is_the_gpus_memory() -> None:
    plan = plan_groups(ClusterConfig(workers=2), cpus=8, gpus=2, node_memory=64 * GIB, gpu_memory=24 * GIB)
    assert plan.rank_memory == 24 * GIB
    assert plan_groups(ClusterConfig(workers=2), cpus=8, gpus=2, node_memory=64 * GIB).rank_memory is None
