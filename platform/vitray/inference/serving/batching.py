"""Images of many requests in one forward pass, without making a lone request wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from vitray.errors import VitrayError
from vitray.inference.serving.contract import Answer


class BusyError(VitrayError):
    """More images wait than there is room for."""


class _Item(NamedTuple):
    image: bytes
    top_k: int
    answer: asyncio.Future[Answer]


class Batcher:
    """Gathers images while earlier batches are being answered.

    A batch leaves as soon as fewer than ``in_flight`` are under way, with all that waits by then. So nobody waits for
    company that may not come: a lone request leaves at once, and batches grow by themselves as soon as requests come
    faster than they are answered. (A timer, as in ``serve.batch``, is either too long for a lone client or too short
    for a busy server.)

    Args:
        run: answers a batch of images, in order; each image's number of classes is that of the greediest request.
        max_batch: images at most in one batch.
        in_flight: batches at most under way: one a replica. With two each, batches are half as large: of a small model,
            eight clients got a third fewer answers, and 32 as many as with one.
        room: images that may wait.
        seen: told the size of each batch that leaves.
    """

    def __init__(
        self,
        run: Callable[[Sequence[bytes], int], Awaitable[list[Answer]]],
        *,
        max_batch: int,
        in_flight: int,
        room: int = 1024,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._run, self._seen = run, seen
        self._max_batch, self._in_flight, self._room = max_batch, in_flight, room
        self._waiting: deque[_Item] = deque()
        self._flying: set[asyncio.Task[None]] = set()
        self._scheduled = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._flying

    async def ask(self, images: Sequence[bytes], top_k: int) -> list[Answer]:
        """One answer an image, in order.

        Raises:
            BusyError: no room for all of them; none was taken.
            Exception: whatever ``run`` raised for a batch that one of them was in.
        """
        if len(self._waiting) + len(images) > self._room:
            raise BusyError(f"{len(self._waiting)} images wait already", remedy="try again in a moment")
        loop = asyncio.get_running_loop()
        items = [_Item(image, top_k, loop.create_future()) for image in images]
        self._waiting.extend(items)
        self._schedule(loop)
        # All of them, so that no exception goes unnoticed; a client that goes away cancels its own.
        answers = await asyncio.gather(*(item.answer for item in items), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if isinstance(answer, Answer)]

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let go in the loop's next round: requests that came in the same round leave together."""
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._let_go)

    def _let_go(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._flying) < self._in_flight:
            batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
            task = asyncio.get_running_loop().create_task(self._fly(batch))
            self._flying.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._schedule(task.get_loop())

    async def _fly(self, batch: list[_Item]) -> None:
        self._seen(len(batch))
        top_k = max(item.top_k for item in batch)
        try:
            answers = await self._run([item.image for item in batch], top_k)
            assert len(answers) == len(batch)
        except BaseException as error:
            for item in batch:
                if not item.answer.done():
                    item.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for item, answer in zip(batch, answers, strict=True):
            if not item.answer.done():  # its client may be gone
                item.answer.set_result(Answer(answer.top[: item.top_k], answer.error))
