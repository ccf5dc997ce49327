"""The name server of an engine: containers find each other by their services' names, and nobody else's."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

_A, _NOT_FOUND, _ANSWER = 1, 3, 0x8580  # an authoritative answer, recursion available


class NameServer:
    """Answers on ``address``. ``lookup`` is given who asks and for what, and returns addresses (none: no such name).

    An /etc/hosts alone would not do: gRPC, and so Ray, also asks for IPv6 addresses, and waits for an answer.
    """

    def __init__(self, address: str, lookup: Callable[[str, str], list[str]]) -> None:
        self._lookup = lookup
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))
        self._socket.settimeout(0.2)
        self._open = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._open:
            with contextlib.suppress(OSError, IndexError, struct.error, UnicodeError):
                question, sender = self._socket.recvfrom(4096)
                self._socket.sendto(self._answer(question, sender[0]), sender)

    def _answer(self, message: bytes, sender: str) -> bytes:
        """RFC 1035, section 4: a header, the question again, and a record for each address."""
        labels, at = [], 12
        while message[at]:
            labels.append(message[at + 1 : at + 1 + message[at]].decode())
            at += 1 + message[at]
        (kind,) = struct.unpack("!H", message[at + 1 : at + 3])
        found = self._lookup(sender, ".".join(labels).lower())
        records = [socket.inet_aton(address) for address in found] if kind == _A else []
        head = struct.pack("!HHHHH", _ANSWER | (0 if found else _NOT_FOUND), 1, len(records), 0, 0)
        body = b"".join(struct.pack("!HHHIH", 0xC00C, _A, 1, 0, 4) + record for record in records)
        return message[:2] + head + message[12 : at + 5] + body

    def close(self) -> None:
        self._open = False
        self._thread.join(2)
        self._socket.close()
