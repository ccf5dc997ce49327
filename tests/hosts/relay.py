"""A published port: connections to this machine's loopback go on to a container, as an engine's proxy does it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


def free_ports(count: int) -> list[int]:
    """Ports of this machine's loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


class Relay:
    """Listens on ``address:port`` until :meth:`close`."""

    def __init__(self, address: str, port: int, target: tuple[str, int]) -> None:
        self._target = target
        self._passes = threading.Event()
        self._passes.set()
        self._socket = socket.create_server((address, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                self._passes.wait()
                try:
                    server = socket.create_connection(self._target, timeout=5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(one, other, self._passes), daemon=True).start()

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing gets through meanwhile, and nobody is told."""
        self._passes.clear()
        try:
            yield
        finally:
            self._passes.set()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _pump(source: socket.socket, target: socket.socket, passes: threading.Event) -> None:
    """Bytes from one to the other until an end; then the other's half is closed too."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            passes.wait()
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
