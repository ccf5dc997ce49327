"""Layouts of worker groups: whatever is planned can be placed, and what cannot is said."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitray.errors import ResourceError
from vitray.experiment import ClusterConfig
from vitray.train.resources import GroupPlan, plan_groups


def plan(
    workers: int | tuple[int, int] = 1, *, cpus: float, gpus: float = 0, groups: int | None = 1, **config: object
) -> GroupPlan:
    return plan_groups(ClusterConfig(workers=workers, **config), cpus=cpus, gpus=gpus, groups=groups)


@given(
    workers=st.integers(1, 40), cpus=st.integers(1, 300) | st.floats(1, 64), gpus=st.integers(0, 40),
    groups=st.none() | st.integers(1, 10), use_gpu=st.sampled_from(["auto", True, False]),
)  # fmt: skip
def test_what_is_planned_fits_with_room_for_a_data_task(
    workers: int, cpus: float, gpus: int, groups: int | None, use_gpu: bool | str
) -> None:
    try:
        made = plan(workers, cpus=cpus, gpus=gpus, groups=groups, use_gpu=use_gpu)
    except ResourceError:
        has = gpus if use_gpu is True or (use_gpu == "auto" and gpus) else cpus
        assert workers * (groups or 1) > has
        return
    ranks = made.groups * made.ranks
    assert made.rank_cpus > 0
    assert made.task_cpus > 0
    assert ranks * made.rank_cpus + made.task_cpus <= cpus + 1e-6
    if cpus >= 2 * ranks:  # then all data tasks run at once
        assert ranks * (made.rank_cpus + made.data_workers * made.task_cpus) <= cpus + 1e-6
    assert made.threads >= 1
    assert made.threads * ranks <= max(cpus, ranks)
    if made.use_gpu:
        assert ranks <= gpus
    else:
        assert ranks <= cpus
    assert made.groups == groups or groups is None


def test_two_ranks_on_two_cpus_leave_half_a_cpu_for_data() -> None:
    made = plan(2, cpus=2)
    assert (made.rank_cpus, made.task_cpus, made.threads) == (0.75, 0.25, 1)


def test_data_tasks_take_what_training_leaves() -> None:
    made = plan(2, cpus=8)
    assert (made.rank_cpus, made.data_workers, made.task_cpus, made.threads) == (1.0, 5, 0.6, 4)


def test_the_number_of_data_tasks_can_be_set() -> None:
    made = plan_groups(ClusterConfig(workers=1, use_gpu=False), cpus=4, gpus=0, data_workers=12)
    assert (made.data_workers, made.task_cpus) == (12, 0.25)
    assert plan_groups(ClusterConfig(workers=1, use_gpu=False), cpus=8, gpus=0, data_workers=1).task_cpus == 1.0


def test_as_many_groups_as_fit_side_by_side() -> None:
    assert plan(2, cpus=7, groups=None).groups == 3
    assert plan(2, cpus=100, gpus=5, groups=None).groups == 2
    assert plan(1, cpus=2, groups=None).groups == 2


def test_an_elastic_group_is_planned_for_its_least() -> None:
    made = plan((2, 8), cpus=4)
    assert made.ranks == 2
    assert made.workers == (2, 8)


def test_the_threads_asked_for_are_taken() -> None:
    assert plan(2, cpus=8, threads=3).threads == 3


@pytest.mark.parametrize(
    ("given_values", "says"),
    [
        ({"workers": 4, "cpus": 2}, r"4 workers need 4 CPUs, but the cluster has 2\n.*cluster\.workers=2"),
        ({"workers": 3, "cpus": 64, "gpus": 2}, r"3 workers need 3 GPUs, but the cluster has 2\n.*cluster\.workers=2"),
        ({"workers": 1, "cpus": 4, "use_gpu": True}, r"1 worker needs 1 GPU, .* has 0\n.*cluster\.use_gpu=false"),
        ({"workers": 1, "cpus": 0, "use_gpu": False}, r"1 worker needs 1 CPU, .* has 0\n.*add a node"),
        ({"workers": 1, "cpus": 0, "gpus": 1}, r"need more CPUs than the cluster's 0\n"),
        ({"workers": 200, "cpus": 1, "gpus": 200}, r"200 ranks .* need more CPUs than the cluster's 1\n"),
        ({"workers": 2, "cpus": 4, "groups": 3}, r"3 trials at once need 6 CPUs, .* has 4\n.*search\.concurrent=2"),
    ],
)
def test_what_is_missing_is_said_with_what_would_work(given_values: dict[str, object], says: str) -> None:
    with pytest.raises(ResourceError) as caught:
        plan(**given_values)  # type: ignore[arg-type]
    assert re.search(says, str(caught.value)), str(caught.value)
    assert caught.value.exit_code == 2


def test_a_plan_is_described_in_words() -> None:
    assert plan(2, cpus=2).describe() == "2 ranks of 0.75 CPU, each with 1 thread and 1 data task of 0.25 CPU"
    with_gpu = "1 rank of 1 CPU, 1 GPU, each with 8 threads and 11 data tasks of 0.63 CPU"
    assert plan(1, cpus=8, gpus=1).describe() == with_gpu


def test_an_elastic_group_leaves_cpus_for_data_however_far_it_grows() -> None:
    made = plan((1, 4), cpus=4)
    assert 4 * made.rank_cpus + made.task_cpus <= 4
    assert plan((1, 8), cpus=4).rank_cpus == made.rank_cpus
    assert plan((2, 3), cpus=16).data_workers == 7
