"""One process that speaks HTTP, on a socket that was bound before anything slow began."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from vitray.errors import ResourceError

_LAST_REQUESTS_S = 10  # for requests in flight when it is stopped
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def bind(host: str, port: int) -> socket.socket:
    """Take the port now, so that nobody else has it when the model is ready. 0 takes any that is free.

    Raises:
        ResourceError: the port is taken, or there is no such address here.
    """
    where = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # asyncio turns Nagle's algorithm off where the protocol is named: 40 ms a request otherwise.
        taken = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ResourceError(f"cannot listen: {reason}", where=where, remedy="check --host") from None
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(1024)
    except OSError as error:
        taken.close()
        remedy = "choose another --port (0 takes any that is free), or check --host"
        raise ResourceError(f"cannot listen: {error.strerror or error}", where=where, remedy=remedy) from None
    return taken


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # run() below has them: what to do at the end is more than uvicorn knows


async def run(app: ASGIApp, listening: socket.socket) -> None:
    """Serve until a signal asks to stop, then answer what is in flight. A second signal does not wait for that."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        ws="none",
        proxy_headers=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=_LAST_REQUESTS_S,
    )
    server = _Server(config)

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    with _on_signals(stop):
        await server.serve(sockets=[listening])


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A signal cancels what is awaited inside the block, which then ends as KeyboardInterrupt."""
    task = asyncio.current_task()
    assert task is not None
    cancelled = False

    def cancel() -> None:
        nonlocal cancelled
        cancelled = True
        task.cancel()

    try:
        with _on_signals(cancel):
            yield
    except asyncio.CancelledError:
        if cancelled:
            raise KeyboardInterrupt from None
        raise


@contextlib.contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
