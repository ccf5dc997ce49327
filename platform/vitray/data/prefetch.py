"""One step ahead: an iterator driven by a thread of its own into a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_DONE = object()


class Prefetch(Generic[T]):
    """Runs ``make()`` in a thread, at most ``depth`` items ahead of the consumer.

    An exception of the producer is raised where its item would have come. ``close`` (or dropping the iteration) ends
    the producer's generator, so that what it holds open is released.
    """

    def __init__(self, make: Callable[[], Iterable[T]], depth: int) -> None:
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
            while (item := self._items.get()) is not _DONE:
                if isinstance(item, BaseException):
                    raise item
                yield item  # type: ignore[misc]
        finally:
            self.close()

    def close(self) -> None:
        """Stop producing and wait for the thread; safe to call twice."""
        self._stop.set()
        self._thread.join(timeout=30)
