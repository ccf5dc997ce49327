"""What ranks say while their trial has no result reaches whoever waits for the sweep."""

from __future__ import annotations

import time

import pytest
import ray

from vitray.cluster.local import Cluster
from vitray.tune.asides import Asides

pytestmark = pytest.mark.ray


def test_each_word_is_heard_once_in_order_and_by_its_own_sweep(cluster: Cluster) -> None:
    asides, others = Asides(), Asides()

    @ray.remote(num_cpus=0)
    def trial(mouth: Asides) -> None:
        for text in ("the disk is full", "there is room again"):
            mouth.say(f"trial-0001: {text}")

    ray.get(trial.remote(asides))
    assert others.hear(now=True) == []
    assert asides.hear() == ["trial-0001: the disk is full", "trial-0001: there is room again"]
    asides.say("more")
    assert asides.hear() == [], "the head is asked once a second"
    time.sleep(1.1)
    assert asides.hear() == ["more"]
    assert asides.hear(now=True) == []
