"""Ahead of the consumer: in order, bounded, errors in their place, and no thread left behind."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from vitray.data.prefetch import Prefetch, ahead
from vitray.errors import ConfigError, DataError


def producers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("vitray-prefetch")]


def test_prefetch_keeps_the_order_and_ends_its_thread() -> None:
    assert list(Prefetch(lambda: range(100), depth=3)) == list(range(100))
    assert producers() == []


def test_prefetch_raises_the_producers_error_in_its_place() -> None:
    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise DataError("broken", where="sample 3")

    items = iter(Prefetch(make, depth=8))
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(DataError, match="sample 3"):
        next(items)
    assert producers() == []


def test_prefetch_raises_an_error_of_making_the_iterator() -> None:
    def make() -> Iterator[int]:
        raise ConfigError("no iterator")

    with pytest.raises(ConfigError):
        list(Prefetch(make, depth=1))


def test_a_consumer_that_leaves_early_ends_the_producer_and_its_generator() -> None:
    closed = threading.Event()

    def make() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    for item in Prefetch(make, depth=2):
        if item == 5:
            break
    assert closed.wait(5)
    assert producers() == []


def test_prefetch_stays_within_its_depth() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for i in range(50):
            made.append(i)
            yield i

    items = iter(Prefetch(make, depth=2))
    next(items)
    time.sleep(0.2)
    assert len(made) <= 4  # one taken, two waiting, one in the producer's hand
    items.close()  # type: ignore[attr-defined]


def test_threads_give_results_in_order_and_no_further_ahead_than_told() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for i in range(40):
            asked.append(i)
            yield i

    def slow_at_first(i: int) -> int:
        time.sleep(0.02 if i % 4 == 0 else 0)
        return i * i

    results = ahead(slow_at_first, items(), workers=3, prefetch=2)
    for i, result in enumerate(results):
        assert result == i * i
        assert len(asked) <= i + 1 + 3 + 2
    assert len(asked) == 40
    assert producers() == []


def test_an_error_in_a_thread_comes_in_its_place() -> None:
    def work(i: int) -> int:
        if i == 3:
            raise DataError("broken", where="unit 3")
        return i

    results = ahead(work, iter(range(10)), workers=2, prefetch=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="unit 3"):
        next(results)
    assert producers() == []
