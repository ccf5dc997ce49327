"""Everything put together: a model that is loaded, followed and answered for, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from vitray.inference.serving import server
from vitray.inference.serving.app import MAX_BYTES, App
from vitray.inference.serving.contract import Backend
from vitray.inference.serving.guard import Guard
from vitray.inference.serving.live import Batching, Live, Loaded
from vitray.inference.serving.metrics import Metrics
from vitray.inference.serving.versions import Version, may_change


@dataclass(frozen=True)
class Options:
    """Of one server.

    Args:
        host: what it listens on; with ``names``, what it may be called.
        reload_s: seconds between looks at the alias; 0 for never.
        max_bytes: of a request's body.
    """

    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    reload_s: float = 5.0
    batching: Batching = field(default_factory=Batching)
    max_bytes: int = MAX_BYTES


async def serve(
    model: str,
    version: Version,
    backend: Backend,
    listening: socket.socket,
    options: Options,
    *,
    ready: Callable[[Loaded], None],
    say: Callable[[str], None],
) -> None:
    """Load ``version``, which ``model`` means now, and answer until a signal comes.

    Args:
        ready: told when requests are answered from then on.
        say: prints a line for the person at the terminal.

    Raises:
        VitrayError: the model cannot be loaded.
    """
    live = Live(model, backend, metrics=Metrics(), say=say, batching=options.batching)
    with server.interruptible():
        loaded = await live.start(version)
    app = App(live, Guard(options.host, options.names), say=say, max_bytes=options.max_bytes)
    follows = asyncio.create_task(live.watch(options.reload_s)) if options.reload_s and may_change(model) else None
    try:
        ready(loaded)
        await server.run(app, listening)
    finally:
        if follows is not None:
            follows.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follows
        await live.close()
