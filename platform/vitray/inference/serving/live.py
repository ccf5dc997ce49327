"""The version that answers now, and its change for another while requests go on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vitray.errors import TrackingError, VitrayError
from vitray.inference.serving import versions
from vitray.inference.serving.batching import Batcher
from vitray.inference.serving.contract import Answer, Backend, Facts
from vitray.inference.serving.metrics import Metrics
from vitray.inference.serving.versions import Version
from vitray.masking import masked

_TRY_AGAIN_S = 60.0  # until a version that could not be loaded is tried again


@dataclass(frozen=True)
class Loaded:
    """A version that is ready. Each has a batcher of its own, so no batch, and no request, mixes two of them."""

    version: Version
    facts: Facts
    batcher: Batcher


@dataclass(frozen=True)
class Batching:
    """How requests share forward passes, see :class:`Batcher`."""

    max_batch: int = 32
    in_flight: int = 1


class Live:
    """Serves what ``model`` means, and looks every few seconds whether its alias has moved.

    A request keeps the version that it began with. The next version is loaded and warmed beside it; then one
    assignment makes it the one that new requests get, and the old one is dropped when its last request is answered.

    Args:
        model: ``models:/NAME@alias``, ``models:/NAME/3`` or a package folder.
        say: prints a line for the person at the terminal.
        tracking_uri: the registry; the home folder's when None.
    """

    def __init__(
        self,
        model: str,
        backend: Backend,
        *,
        metrics: Metrics,
        say: Callable[[str], None],
        batching: Batching = Batching(),
        tracking_uri: str | None = None,
    ) -> None:
        self.model, self.backend, self.metrics = model, backend, metrics
        self._say, self._batching, self._tracking_uri = say, batching, tracking_uri
        self.current: Loaded | None = None
        self.trouble: str | None = None  # why the alias is not followed just now
        self._failed: tuple[str, float] | None = None  # the key of a version that cannot be loaded, and since when
        self._dropping: set[asyncio.Task[None]] = set()

    async def start(self, version: Version) -> Loaded:
        """Load the first version. Raises VitrayError when it cannot be."""
        loaded = await self._load(version)
        self.metrics.registry_up.set(1)
        self._switch(loaded)
        return loaded

    def _switch(self, loaded: Loaded) -> None:
        self.current = loaded
        self.metrics.model(loaded.version.name, str(loaded.version.number or ""), loaded.version.alias or "")

    async def _load(self, version: Version) -> Loaded:
        package = await asyncio.to_thread(versions.read, version, self._tracking_uri)
        try:
            facts = await self.backend.load(version.key, package)
        except VitrayError as error:  # it names the copy that was made for loading
            raise type(error)(error.what, where=version.label, remedy=error.remedy) from error

        async def run(images: Sequence[bytes], top_k: int) -> list[Answer]:
            return await self.backend.predict(version.key, images, top_k)

        batcher = Batcher(
            run, max_batch=self._batching.max_batch, in_flight=self._batching.in_flight, seen=self.metrics.batch
        )
        return Loaded(version, facts, batcher)

    async def watch(self, every_s: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.look()

    async def look(self) -> None:
        """Follow the alias if it has moved. Whatever goes wrong is reported, and the version that answers goes on."""
        assert self.current is not None
        try:
            found = await asyncio.to_thread(versions.find, self.model, self._tracking_uri)
        except (TrackingError, OSError) as error:  # also a full disk
            self.metrics.registry_up.set(0)
            self._trouble(f"{_line(error)}; {self.current.version.label} goes on answering")
            return
        self.metrics.registry_up.set(1)
        if found.key == self.current.version.key:
            self._failed = None
            self._fine()
        elif self._failed is None or self._failed[0] != found.key or time.monotonic() > self._failed[1] + _TRY_AGAIN_S:
            await self._change(found)

    async def _change(self, version: Version) -> None:
        old = self.current
        assert old is not None
        begin = time.monotonic()
        try:
            new = await self._load(version)
        except (VitrayError, OSError) as error:  # also a full disk
            self._failed = (version.key, time.monotonic())
            self.metrics.reloaded(done=False)
            self._trouble(f"cannot change to it: {_line(error)}; {old.version.label} goes on answering")
            return
        self._switch(new)
        self._failed = self.trouble = None
        self.metrics.reloaded(done=True)
        took = time.monotonic() - begin
        self._say(
            f"{version.label} answers from now on (before: {old.version.label}; loaded beside it in {took:.1f} s)"
        )
        task = asyncio.create_task(self._drop(old))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    async def _drop(self, old: Loaded) -> None:
        while not old.batcher.idle:
            await asyncio.sleep(0.05)
        if self.current is not None and self.current.version.key != old.version.key:
            self.backend.drop(old.version.key)

    def _trouble(self, text: str) -> None:
        if text != self.trouble:
            self._say(f"warning: {text}")
        self.trouble = text

    def _fine(self) -> None:
        if self.trouble is not None:
            self._say(f"the registry is back; {self.model} is followed again")
        self.trouble = None

    async def close(self) -> None:
        for task in tuple(self._dropping):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _line(error: VitrayError | OSError) -> str:
    """Without secrets: whoever asks /readyz gets to see it."""
    return masked(str(error)).replace("\n  ->", ";")
