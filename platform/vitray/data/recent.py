"""What was used most recently, kept up to a limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key, up to a total size; the longest unused make room. Safe to use from many threads."""

    def __init__(self, limit: int, size_of: Callable[[T], int] = lambda value: 1) -> None:
        self._limit, self._size_of, self._total = limit, size_of, 0
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> T | None:
        """The value of ``key``, if it is there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``; made if it is not there."""
        value = self.find(key)
        if value is None:
            value = make()  # outside the lock: it may wait for a disk
            self.put(key, value)
        return value

    def put(self, key: Hashable, value: T) -> None:
        with self._lock:
            self._drop(key)
            self._values[key] = value
            self._total += self._size_of(value)
            while self._total > self._limit and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def drop(self, key: Hashable) -> None:
        with self._lock:
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        if key in self._values:
            self._total -= self._size_of(self._values.pop(key))
