"""Ahead of the consumer: an iterator driven by a thread of its own, or work done by several threads in order."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")
_DONE = object()
_CLOSE_S = 10.0  # a producer that waits for something that never comes is left to its fate


class Prefetch(Generic[T]):
    """Runs ``make()`` in a thread, at most ``depth`` items ahead of the consumer.

    An exception of the producer is raised where its item would have come. ``close`` (or dropping the iteration) ends
    the producer's generator, so that what it holds open is released. A consumer that has waited ``patience`` seconds
    calls ``out_of_patience``, which may raise, and waits on.
    """

    def __init__(
        self,
        make: Callable[[], Iterable[T]],
        depth: int,
        *,
        patience: float | None = None,
        out_of_patience: Callable[[], None] = lambda: None,
    ) -> None:
        self._patience, self._out_of_patience = patience, out_of_patience
        self._items: queue.Queue[object] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, args=(make,), daemon=True, name="vitray-prefetch")
        self._thread.start()

    def _produce(self, make: Callable[[], Iterable[T]]) -> None:
        iterator: Iterator[T] | None = None
        try:
            iterator = iter(make())
            for item in iterator:
                if not self._put(item):
                    return
            self._put(_DONE)
        except BaseException as error:  # handed to the consumer, whatever it is
            self._put(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _put(self, item: object) -> bool:
        while not self._stop.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        try:
            while (item := self._get()) is not _DONE:
                if isinstance(item, BaseException):
                    raise item
                yield item  # type: ignore[misc]
        finally:
            self.close()

    def _get(self) -> object:
        while True:
            try:
                return self._items.get(timeout=self._patience)
            except queue.Empty:
                self._out_of_patience()

    def close(self) -> None:
        """Stop producing and wait for the thread; safe to call twice."""
        self._stop.set()
        self._thread.join(timeout=_CLOSE_S)


def ahead(work: Callable[[S], T], items: Iterator[S], workers: int, prefetch: int) -> Iterator[T]:
    """``work(item)`` for each item, in their order, by ``workers`` threads; at most ``prefetch`` results wait.

    An item is asked for when its work is about to begin. Leaving early ends the threads.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="vitray-prefetch")
    waiting: deque[Future[T]] = deque()
    try:
        for item in itertools.islice(items, workers + prefetch):
            waiting.append(pool.submit(work, item))
        while waiting:
            result = waiting.popleft().result()
            for item in itertools.islice(items, 1):
                waiting.append(pool.submit(work, item))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
